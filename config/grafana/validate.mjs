// See validate.sh.
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, rmSync, writeFileSync, mkdirSync, copyFileSync } from 'node:fs';

const here = 'config/grafana';
const there = 'target/grafana-schema';
const dashboards = readdirSync(here).filter((name) => name.endsWith('.json')).map((name) => [name.slice(0, -5), JSON.parse(readFileSync(`${here}/${name}`, 'utf8'))]);
const failures = [];
const ensure = (holds, what) => holds || failures.push(what);

// ---- Queries.

// What Grafana fills in.
const filled = (text) => text
  .replaceAll(/\$(\{(instance|shard)(:\w+)?\}|instance\b|shard\b)/g, '.*')
  .replaceAll(/\$(__rate_interval|__interval)\b/g, '5m')
  .replaceAll(/\$__range\b/g, '1h');
const queries = dashboards.flatMap(([name, board]) => [
  ...board.annotations.list.map((note) => [name, note.name, note.target]),
  ...board.panels.flatMap((panel) => (panel.targets ?? []).map((target) => [name, panel.title, target])),
  ...board.templating.list.filter((variable) => variable.type === 'query').map((variable) =>
    [name, variable.label, { refId: 'v', expr: variable.query.query.replace(/^label_values\((.*), (\w+)\)$/, 'count by ($2) ($1)') }]),
].filter(([, , target]) => target?.expr).map(([board_, panel, target]) => ({ board: board_, panel, ref: target.refId, expr: filled(target.expr) })));

if (process.argv[2] === '--queries') {
  for (const { board, panel, ref, expr } of queries) console.log([board, panel, ref, expr].join('\t'));
  process.exit(0);
}

if (process.argv[2] === '--against') {
  const prometheus = process.argv[3];
  // Nothing to see where nothing has begun or was reloaded since.
  const asked = queries.filter(({ panel }) => !['Start', 'Configuration'].includes(panel));
  for (const { board, panel, ref, expr } of asked) {
    const answer = await (await fetch(`${prometheus}/api/v1/query`, { method: 'POST', body: new URLSearchParams({ query: expr }) })).json();
    const values = answer.data?.result?.map(({ value }) => Number(value[1])) ?? [];
    ensure(values.some((value) => !Number.isNaN(value)), `${board}, ${panel}, ${ref}: ${answer.error ?? (values.length ? 'not a number' : 'no data')}: ${expr}`);
  }
  end(`${asked.length} queries answered with data`);
}

// ---- Schema. Each dashboard becomes a constant of the type that schema.ts makes of what Grafana publishes.

// Mistakes, each of which has to be found: else the check would be none.
const mistakes = {
  'a field that is not there': (board) => { board.panels.find((panel) => panel.type === 'timeseries').fieldConfig.defaults.units = 's'; },
  'a field of the board that is not there': (board) => { board.refreshes = '10s'; },
  'an option that is not there': (board) => { board.panels.find((panel) => panel.type === 'timeseries').options.legends = {}; },
  'a word that is none of its kind': (board) => { board.panels.find((panel) => panel.type === 'timeseries').fieldConfig.defaults.custom.drawStyle = 'curve'; },
  'a number of none of its kind': (board) => { board.templating.list[1].refresh = 7; },
  'a text for a number': (board) => { board.panels[1].gridPos.w = '12'; },
  'an option that is missing': (board) => { delete board.panels.find((panel) => panel.type === 'timeseries').options.tooltip; },
  'a query without an expression': (board) => { delete board.panels.find((panel) => panel.targets).targets[0].expr; },
  'a field of a query that is not there': (board) => { board.panels.find((panel) => panel.targets).targets[0].legend = 'x'; },
  'a kind of panel that is unknown': (board) => { board.panels.find((panel) => panel.type === 'timeseries').type = 'graph'; },
  'no version of the schema': (board) => { delete board.schemaVersion; },
};
const sources = [];
const write = (file, board) => {
  sources.push(file);
  writeFileSync(`${there}/src/${file}.ts`, `import type { Dashboard } from './schema';\nexport const dashboard: Dashboard = ${JSON.stringify(board, null, 2)};\n`);
};
rmSync(`${there}/src`, { recursive: true, force: true });
mkdirSync(`${there}/src`, { recursive: true });
copyFileSync(`${here}/schema.ts`, `${there}/src/schema.ts`);
for (const [name, board] of dashboards) write(name, board);
Object.values(mistakes).forEach((make, number) => {
  const board = structuredClone(dashboards[0][1]);
  make(board);
  write(`mistake-${number}`, board);
});
writeFileSync(`${there}/src/tsconfig.json`, JSON.stringify({
  compilerOptions: { strict: true, exactOptionalPropertyTypes: false, noEmit: true, skipLibCheck: true, types: [], module: 'esnext', moduleResolution: 'bundler', target: 'esnext' },
  include: ['*.ts'],
}));
const checked = spawnSync('node', [`${there}/node_modules/typescript/bin/tsc`, '-p', `${there}/src`, '--pretty', 'false'], { encoding: 'utf8', maxBuffer: 1 << 28 });
const found = new Map();
for (const line of checked.stdout.split('\n')) {
  const file = line.match(/^(?:.*\/)?([\w-]+)\.ts\(/)?.[1];
  if (file) found.set(file, [...(found.get(file) ?? []), line.slice(0, 600)]);
  else if (line.startsWith('error')) failures.push(line);
}
ensure(checked.stdout || checked.status === 0, `tsc: ${checked.stderr} ${checked.error ?? ''}`);
for (const line of found.get('schema') ?? []) failures.push(line);
for (const [name] of dashboards) for (const line of found.get(name) ?? []) failures.push(line);
Object.keys(mistakes).forEach((name, number) => ensure(found.has(`mistake-${number}`), `this mistake was not found: ${name}`));

// ---- Queries parse: as rules, which promtool checks.

const rules = { groups: [{ name: 'queries', rules: queries.map(({ expr }, number) => ({ record: `query_${number}`, expr })) }] };
writeFileSync(`${there}/queries.yaml`, JSON.stringify(rules));
const parsed = spawnSync('promtool', ['check', 'rules', '--lint=none', `${there}/queries.yaml`], { encoding: 'utf8' });
ensure(parsed.status === 0, `promtool: ${parsed.error ?? parsed.stdout + parsed.stderr}`);

// ---- What no schema says.

const anchors = new Set([...readFileSync('config/RUNBOOKS.md', 'utf8').matchAll(/^##+ (.*)$/gm)].map(([, title]) => title.toLowerCase().replaceAll(/[^\w -]/g, '').replaceAll(' ', '-')));
for (const [name, board] of dashboards) {
  const ids = board.panels.map((panel) => panel.id);
  ensure(new Set(ids).size === ids.length, `${name}: an id is there twice`);
  ensure(board.templating.list[0].type === 'datasource' && board.templating.list[1].multi, `${name}: the data source and the hosts can be chosen`);
  const cells = new Set();
  for (const panel of board.panels) {
    const at = `${name}, ${panel.title}`;
    const { x, y, w, h } = panel.gridPos;
    ensure(x + w <= 24, `${at}: wider than the board`);
    for (let column = x; column < x + w; column++) for (let line = y; line < y + h; line++) {
      ensure(!cells.has(`${column} ${line}`), `${at}: lies on another`);
      cells.add(`${column} ${line}`);
    }
    if (panel.type === 'row' || panel.type === 'text') continue;
    ensure(panel.description, `${at}: no description`);
    ensure(panel.fieldConfig.defaults.unit, `${at}: no unit`);
    for (const target of panel.targets) ensure(target.expr.includes('$instance'), `${at}: does not ask for the chosen hosts`);
    for (const { url } of panel.links ?? []) ensure(anchors.has(url.split('#')[1]), `${at}: ${url} is not in RUNBOOKS.md`);
  }
}
end(`${dashboards.length} dashboards, ${queries.length} queries; ${Object.keys(mistakes).length} planted mistakes found`);

function end(said) {
  for (const failure of failures) console.error(failure);
  console.log(failures.length ? `${failures.length} failed` : said);
  process.exit(failures.length ? 1 : 0);
}
