//! A view on a terminal of any size: what does not fit is left out, the least important first.

use super::state::{Pane, State};
use super::view::{Cell, Gauge, Kind, Table, Tone, View, count, width};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Sparkline};

const HELP: [&str; 13] = [
    "q, Esc, Ctrl-C   quit",
    "p                pause; what is shown stays",
    "+  -             ask more often, more seldom",
    "tab, 1 to 5      choose a table; it gets more room",
    "arrows, j k      scroll it by a row",
    "PgUp PgDn Space  by a page",
    "Home End         to its start, its end",
    "s                sort sources by lag or by path",
    "?                this help",
    "",
    "Rates are of the last 10 s, latency of the last minute.",
    "A source's LAG is what is not read of it yet;",
    "a sink's, how old its oldest line is.",
];

/// From here on, two things stand side by side.
const WIDE: u16 = 120;
const GAP: u16 = 3;
/// Least for a path or a reason.
const WORDS_MIN: usize = 12;
const BAR: usize = 20;
/// A sink, the log and the dead letters; less where there is no room for it.
const SUMMARY_MIN: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Silent,
    Rates,
    Summary,
    Pace,
    Of(Pane),
    Foot,
}

/// What stands on the same lines. The lowest rank is placed first.
struct Slot {
    parts: Vec<Part>,
    rank: u8,
    min: usize,
    want: usize,
}

#[derive(Clone, Copy)]
struct Look {
    colour: bool,
    /// What it shows is old.
    stale: bool,
}

impl Look {
    fn style(self, tone: Tone) -> Style {
        let (colour, modifier) = match tone {
            Tone::Plain => (None, Modifier::empty()),
            Tone::Dim => (None, Modifier::DIM),
            Tone::Good => (Some(Color::Green), Modifier::empty()),
            Tone::Warn => (Some(Color::Yellow), Modifier::BOLD),
            Tone::Bad => (Some(Color::Red), Modifier::BOLD),
        };
        let style = match colour {
            Some(colour) if self.colour && !self.stale => Style::new().fg(colour),
            _ => Style::new(),
        };
        style.add_modifier(if self.stale { Modifier::DIM } else { modifier })
    }

    fn span(self, cell: &Cell) -> Span<'static> {
        Span::styled(cell.text.clone(), self.style(cell.tone))
    }

    /// What goes on one line, from the first.
    fn fit<'a>(self, cells: impl IntoIterator<Item = &'a Cell>, room: u16) -> Line<'static> {
        let (mut spans, mut used) = (Vec::new(), 0);
        for cell in cells {
            let gap = if spans.is_empty() { 0 } else { 2 };
            used += gap + width(&cell.text);
            if used > usize::from(room) && gap > 0 {
                break;
            }
            spans.push(Span::raw(" ".repeat(gap)));
            spans.push(self.span(cell));
        }
        Line::from(spans)
    }
}

pub fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let look = Look { colour: state.colour, stale: state.silent.is_some() };
    match &state.stats {
        None => waiting(frame, area, state, look),
        Some(stats) => {
            let mut view = View::of(stats, state.positions.as_ref(), state.sort);
            let mut marks = Vec::new();
            if look.stale {
                marks.push(Cell::from("STALE").tone(Tone::Bad));
            }
            if state.paused {
                marks.push(Cell::from("PAUSED").tone(Tone::Warn));
            }
            if !view.alarms.is_empty() {
                let number = view.alarms.len();
                let word = if number == 1 { "ALARM" } else { "ALARMS" };
                marks.push(Cell::from(format!("{number} {word}")).tone(Tone::Bad));
            }
            view.head.splice(2..2, marks);
            view.head.push(Cell::from(state.url.to_string()).tone(Tone::Dim));
            place(frame, area, state, &view, look);
        }
    }
    if state.help {
        help(frame, area, state.colour);
    }
}

fn waiting(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look) {
    let (first, more, tone) = match &state.silent {
        None => (format!("log-capturer top: asking {}", state.url), String::new(), Tone::Plain),
        Some((since, why)) => {
            let seconds = since.elapsed().as_secs();
            let first = format!("NO ANSWER for {seconds} s, trying again");
            (first, why.to_string(), Tone::Bad)
        }
    };
    let look = Look { stale: false, ..look };
    let mut lines = vec![Line::styled(first, look.style(tone))];
    lines.extend(wrap(&more, usize::from(area.width)).into_iter().map(Line::raw));
    lines.push(Line::raw("q quits"));
    for (row, line) in area.rows().zip(lines) {
        frame.render_widget(line, row);
    }
}

fn slots(area: Rect, state: &State, view: &View) -> Vec<Slot> {
    let focused = |pane| state.focus == pane;
    let one = |part, rank| Slot { parts: vec![part], rank, min: 1, want: 1 };
    let table = |pane, table: &Table, rank: u8| Slot {
        parts: vec![Part::Of(pane)],
        rank: if focused(pane) { 3 } else { rank },
        min: 3,
        want: table.rows.len().max(1) + 2,
    };
    let mut all = vec![one(Part::Head, 0), one(Part::Rates, 4)];
    if state.silent.is_some() {
        all.push(one(Part::Silent, 1));
    }
    if !view.alarms.is_empty() || focused(Pane::Alarms) {
        let lines = alarm_lines(view, area.width).len().max(1);
        let most = if focused(Pane::Alarms) { lines } else { usize::from(area.height) / 4 };
        let want = lines.min(most.max(1)) + 1;
        all.push(Slot { parts: vec![Part::Of(Pane::Alarms)], rank: 2, min: 2, want });
    }
    let summary = Slot {
        parts: vec![Part::Summary],
        rank: 5,
        min: SUMMARY_MIN,
        want: view.ends.len() + view.gauges.len() + 1,
    };
    let pace = Slot { parts: vec![Part::Pace], rank: 12, min: 2, want: 5 };
    let stages = table(Pane::Stages, &view.stages, 9);
    let shards = table(Pane::Shards, &view.shards, 10);
    let pairs = [(summary, pace), (stages, shards)];
    for (left, right) in pairs {
        if area.width >= WIDE {
            all.push(Slot {
                parts: [left.parts, right.parts].concat(),
                rank: left.rank.min(right.rank),
                min: left.min.max(right.min),
                want: left.want.max(right.want),
            });
        } else {
            all.extend([left, right]);
        }
    }
    all.push(table(Pane::Sinks, &view.sinks, 8));
    all.push(table(Pane::Sources, &view.sources, 11));
    all.push(one(Part::Foot, 7));
    all
}

/// How many lines each gets.
fn heights(slots: &[Slot], lines: usize) -> Vec<usize> {
    let mut heights = vec![0; slots.len()];
    let mut left = lines;
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|at| slots[*at].rank);
    for at in order.iter().copied() {
        let Slot { parts, min, .. } = &slots[at];
        let given = if parts[0] == Part::Summary { left.min(*min) } else { *min };
        if given <= left {
            heights[at] = given;
            left -= given;
        }
    }
    // The rest goes round, line by line.
    loop {
        let before = left;
        for at in order.iter().copied() {
            if heights[at] == 0 {
                continue;
            }
            // What is looked at gets more.
            let step = if slots[at].rank == 3 { 3 } else { 1 };
            let more = slots[at].want.saturating_sub(heights[at]).min(left).min(step);
            heights[at] += more;
            left -= more;
        }
        if left == before {
            return heights;
        }
    }
}

fn place(frame: &mut Frame<'_>, area: Rect, state: &mut State, view: &View, look: Look) {
    let slots = slots(area, state, view);
    let heights = heights(&slots, area.height.into());
    let mut y = area.y;
    for (slot, height) in slots.iter().zip(heights) {
        let height = u16::try_from(height).unwrap_or(u16::MAX).min(area.bottom() - y);
        if height == 0 {
            continue;
        }
        let is_foot = slot.parts == [Part::Foot];
        let whole = Rect { y: if is_foot { area.bottom() - 1 } else { y }, height, ..area };
        y += height;
        match slot.parts[..] {
            [left, right] => {
                let width = match left {
                    Part::Of(_) => stages_width(view).min(area.width / 2),
                    _ => area.width * 6 / 10,
                };
                part(frame, Rect { width, ..whole }, state, view, look, left);
                let x = whole.x + width + GAP;
                let width = whole.width.saturating_sub(width + GAP);
                part(frame, Rect { x, width, ..whole }, state, view, look, right);
            }
            [only] => part(frame, whole, state, view, look, only),
            _ => {}
        }
    }
}

fn stages_width(view: &View) -> u16 {
    let widths = view.stages.widths();
    let all: usize = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
    u16::try_from(all.max(width(&view.stages.title) + 8)).unwrap_or(u16::MAX)
}

fn part(frame: &mut Frame<'_>, area: Rect, state: &mut State, view: &View, look: Look, part: Part) {
    match part {
        Part::Head => frame.render_widget(look.fit(&view.head, area.width), area),
        Part::Rates => {
            let line = look.fit(&view.rates, area.width);
            frame.render_widget(line.patch_style(Modifier::BOLD), area);
        }
        Part::Silent => {
            let Some((since, why)) = &state.silent else { return };
            let seconds = since.elapsed().as_secs();
            let text = format!("NO ANSWER for {seconds} s, figures are old, trying again: {why}");
            let style = Look { stale: false, ..look }.style(Tone::Bad);
            let line = Line::styled(text, style.add_modifier(Modifier::REVERSED));
            frame.render_widget(line, area);
        }
        Part::Summary => summary(frame, area, view, look),
        Part::Pace => pace(frame, area, state, look),
        Part::Of(Pane::Alarms) => alarms(frame, area, state, view, look),
        Part::Of(pane) => {
            let content = match pane {
                Pane::Stages => &view.stages,
                Pane::Shards => &view.shards,
                Pane::Sinks => &view.sinks,
                _ => &view.sources,
            };
            table(frame, area, state, pane, content, look);
        }
        Part::Foot => {
            let every = config::duration_text(state.interval);
            let keys = [
                "q quit".to_owned(),
                "? help".into(),
                if state.paused { "p go on".into() } else { "p pause".into() },
                format!("+/- every {every}"),
                "tab table".into(),
                "arrows scroll".into(),
                format!("s by {}", state.sort.other().name()),
            ];
            let keys = keys.map(|key| Cell::from(key).tone(Tone::Dim));
            frame.render_widget(look.fit(&keys, area.width), area);
        }
    }
}

fn summary(frame: &mut Frame<'_>, area: Rect, view: &View, look: Look) {
    let names = view.gauges.iter().map(|gauge| width(gauge.name)).max().unwrap_or(0);
    let gauge = |gauge: &Gauge| {
        #[expect(clippy::cast_possible_truncation, reason = "no longer than the bar")]
        #[expect(clippy::cast_sign_loss, reason = "not below 0")]
        let full = (gauge.ratio * BAR as f64).round() as usize;
        let mut spans = vec![Span::raw(format!("{:names$}  ", gauge.name))];
        if usize::from(area.width) >= names + BAR + 2 + width(&gauge.said).min(24) {
            spans.push(Span::styled("█".repeat(full), look.style(gauge.tone)));
            spans.push(Span::styled("░".repeat(BAR - full), look.style(Tone::Dim)));
            spans.push(Span::raw("  "));
        }
        spans.push(Span::styled(
            gauge.said.clone(),
            look.style(match gauge.tone {
                Tone::Good => Tone::Plain,
                tone => tone,
            }),
        ));
        Line::from(spans)
    };
    let (ends, gauges) = (view.ends.iter(), view.gauges.iter().map(gauge));
    let mut lines: Vec<Line<'_>> = ends.map(|end| look.fit(end, area.width)).collect();
    lines.extend(gauges);
    lines.push(look.fit(&view.objective, area.width));
    for (row, line) in area.rows().zip(lines) {
        frame.render_widget(line, row);
    }
}

fn pace(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look) {
    let shown = state.history.len().min(area.width.into());
    let rates = || state.history.iter().skip(state.history.len() - shown).copied();
    let highest = rates().max().unwrap_or(0);
    let title = format!("Lines per second, up to {}", count(highest as f64));
    frame.render_widget(rule(&title, "", false, area.width, look), Rect { height: 1, ..area });
    let empty = usize::from(area.width) - shown;
    let bars = std::iter::repeat_n(None, empty).chain(rates().map(Some));
    let bars = Sparkline::default().data(bars).max(highest.max(1));
    let bars = match look.colour && !look.stale {
        true => bars.style(Style::new().fg(Color::Cyan)),
        false => bars.style(look.style(Tone::Plain)),
    };
    frame.render_widget(bars, below(area, 1));
}

fn below(area: Rect, lines: u16) -> Rect {
    let lines = lines.min(area.height);
    Rect { y: area.y + lines, height: area.height - lines, ..area }
}

/// A line with a title in it.
fn rule(title: &str, note: &str, focused: bool, room: u16, look: Look) -> Line<'static> {
    let mark = if focused { "▶ " } else { "" };
    let used = width(title) + width(note) + width(mark) + 3;
    let line = "─".repeat(usize::from(room).saturating_sub(used + usize::from(!note.is_empty())));
    let note = if note.is_empty() { String::new() } else { format!(" {note}") };
    let style = look.style(Tone::Plain);
    let title_style = if focused { style.add_modifier(Modifier::BOLD) } else { style };
    Line::from(vec![
        Span::styled("─ ", look.style(Tone::Dim)),
        Span::styled(format!("{mark}{title} "), title_style),
        Span::styled(line, look.style(Tone::Dim)),
        Span::styled(note, style),
    ])
}

/// What of it is shown, and the words for it where that is not all.
fn scrolled(state: &mut State, pane: Pane, total: usize, rows: usize) -> (usize, String) {
    let at = pane as usize;
    state.rows[at] = rows;
    state.first[at] = state.first[at].min(total.saturating_sub(rows));
    let first = state.first[at];
    let note = if total > rows {
        format!("{}-{} of {total}", first + 1, (first + rows).min(total))
    } else {
        String::new()
    };
    (first, note)
}

fn title(pane: Pane, text: &str) -> String {
    format!("{} {text}", pane as usize + 1)
}

fn alarm_lines(view: &View, room: u16) -> Vec<Cell> {
    let lines = |alarm: &Cell| {
        let tone = alarm.tone;
        wrap(&alarm.text, room.into()).into_iter().map(move |line| Cell::from(line).tone(tone))
    };
    view.alarms.iter().flat_map(lines).collect()
}

fn alarms(frame: &mut Frame<'_>, area: Rect, state: &mut State, view: &View, look: Look) {
    let lines = alarm_lines(view, area.width);
    let rows = usize::from(area.height).saturating_sub(1);
    let (first, note) = scrolled(state, Pane::Alarms, lines.len(), rows);
    let note = if note.is_empty() { note } else { format!("lines {note}") };
    let name = title(Pane::Alarms, &format!("Alarms ({})", view.alarms.len()));
    let focused = state.focus == Pane::Alarms;
    frame.render_widget(rule(&name, &note, focused, area.width, look), Rect { height: 1, ..area });
    let none = [Cell::from("none").tone(Tone::Dim)];
    let lines = if lines.is_empty() { &none[..] } else { &lines[first..] };
    for (row, line) in below(area, 1).rows().zip(lines) {
        frame.render_widget(Line::from(look.span(line)), row);
    }
}

fn table(frame: &mut Frame<'_>, area: Rect, state: &mut State, pane: Pane, of: &Table, look: Look) {
    let rows = usize::from(area.height).saturating_sub(2);
    let (first, note) = scrolled(state, pane, of.rows.len(), rows);
    let name = title(pane, &of.title);
    let line = rule(&name, &note, state.focus == pane, area.width, look);
    frame.render_widget(line, Rect { height: 1, ..area });
    let mut lines = Vec::new();
    if of.rows.is_empty() {
        let room = area.width.into();
        lines.extend(wrap(&of.none, room).into_iter().map(|none| look_line(none, Tone::Dim, look)));
    } else {
        let columns = columns(of, area.width.into());
        let names: Vec<Cell> =
            of.columns.iter().map(|column| Cell::from(column.name).tone(Tone::Dim)).collect();
        for row in std::iter::once(&names).chain(of.rows.iter().skip(first).take(rows)) {
            lines.push(row_line(row, of, &columns, look));
        }
    }
    for (row, line) in below(area, 1).rows().zip(lines) {
        frame.render_widget(line, row);
    }
}

fn look_line(text: String, tone: Tone, look: Look) -> Line<'static> {
    Line::styled(text, look.style(tone))
}

fn row_line(row: &[Cell], of: &Table, columns: &[(usize, usize)], look: Look) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, room) in columns.iter().copied() {
        let Some(cell) = row.get(at) else { continue };
        let kind = of.columns[at].kind;
        let text = cut(&cell.text, room, kind);
        let fill = " ".repeat(room.saturating_sub(width(&text)));
        let text = match kind {
            Kind::Number => format!("{fill}{text}"),
            _ => format!("{text}{fill}"),
        };
        if !spans.is_empty() {
            spans.push(Span::raw("  "));
        }
        spans.push(Span::styled(text, look.style(cell.tone)));
    }
    Line::from(spans)
}

/// Which columns there is room for, and how much.
fn columns(of: &Table, room: usize) -> Vec<(usize, usize)> {
    let wide = |at: usize| matches!(of.columns[at].kind, Kind::Path | Kind::Words);
    let empty = |at: usize| {
        of.columns[at].kind == Kind::Words && of.rows.iter().all(|row| row[at].text.is_empty())
    };
    let all = of.widths();
    let mut kept: Vec<usize> = (0..all.len()).filter(|at| !empty(*at)).collect();
    let least = |at: usize| if wide(at) { all[at].min(WORDS_MIN) } else { all[at] };
    let least_of = |kept: &[usize]| {
        kept.iter().map(|at| least(*at)).sum::<usize>() + 2 * kept.len().saturating_sub(1)
    };
    while kept.len() > 1 && least_of(&kept) > room {
        let last = kept.iter().copied().max_by_key(|at| of.columns[*at].rank);
        kept.retain(|at| Some(*at) != last);
    }
    let spare = room.saturating_sub(least_of(&kept));
    let grown = |at: usize| if wide(at) { all[at].min(least(at) + spare) } else { least(at) };
    kept.into_iter().map(|at| (at, grown(at).min(room))).collect()
}

/// No wider than that: the end of a path tells most, of other texts the beginning.
fn cut(text: &str, room: usize, kind: Kind) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let take = |chars: &mut dyn Iterator<Item = char>| {
        let (mut taken, mut used) = (Vec::new(), 1);
        for c in chars {
            used += width(c.encode_utf8(&mut [0; 4]));
            if used > room {
                break;
            }
            taken.push(c);
        }
        taken
    };
    if kind == Kind::Path {
        let end = take(&mut text.chars().rev());
        return std::iter::once('…').chain(end.into_iter().rev()).collect();
    }
    take(&mut text.chars()).into_iter().chain(['…']).collect()
}

/// Lines no wider than that, parted between words where it goes.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let mut word = word.to_owned();
        if !line.is_empty() && width(&line) + 1 + width(&word) > room {
            lines.push(std::mem::take(&mut line));
        }
        while width(&word) > room.max(1) {
            let mut head = String::new();
            for c in word.chars() {
                if width(&head) + width(c.encode_utf8(&mut [0; 4])) > room.max(1)
                    && !head.is_empty()
                {
                    break;
                }
                head.push(c);
            }
            word.drain(..head.len());
            lines.push(head);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

fn help(frame: &mut Frame<'_>, area: Rect, colour: bool) {
    let widest = HELP.iter().map(|line| width(line)).max().unwrap_or(0) + 4;
    let wide = u16::try_from(widest).unwrap_or(u16::MAX).min(area.width);
    let high = u16::try_from(HELP.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect {
        x: area.x + (area.width - wide) / 2,
        y: area.y + (area.height - high) / 2,
        width: wide,
        height: high,
    };
    frame.render_widget(Clear, place);
    let look = Look { colour, stale: false };
    frame.render_widget(rule("Keys", "", false, wide, look), Rect { height: 1, ..place });
    for (row, line) in below(place, 1).rows().zip(HELP) {
        frame.render_widget(Line::raw(format!("  {line}")), row);
    }
    if high >= 3 {
        let last = Rect { y: place.bottom() - 1, height: 1, ..place };
        frame.render_widget(Line::styled("─".repeat(wide.into()), look.style(Tone::Dim)), last);
    }
}
