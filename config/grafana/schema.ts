// What a dashboard may hold, as Grafana publishes it: the dashboard of @grafana/schema, for each kind of panel its own
// options there, and for queries those of Prometheus in grafana-foundation-sdk. validate.mjs checks the JSON against it.
import type * as grafana from '@grafana/schema';
import type { Dataquery } from '@grafana/grafana-foundation-sdk/prometheus';
import type { Options as BarGauge } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { Options as Heatmap, FieldConfig as HeatmapField } from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as StateTimeline, FieldConfig as StateTimelineField } from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type { Options as Text } from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type { Options as TimeSeries, FieldConfig as TimeSeriesField } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has the values of enums, where TypeScript asks for their names.
type Plain<T> = 0 extends 1 & T ? unknown
  : T extends string ? `${T}`
  : T extends number ? (`${T}` extends `${infer N extends number}` ? N : never)
  : T extends (infer E)[] ? Plain<E>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;

type Query = Omit<Plain<Dataquery>, '_implementsDataqueryVariant' | 'refId'> & { refId: string };
type Field<F> = Omit<Plain<grafana.FieldConfig>, 'custom'> & { custom?: Plain<F> };
type Panel<T extends string, O, F = never> = Omit<Plain<grafana.Panel>, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: T;
  title: string;
  options: Plain<O>;
  fieldConfig: Omit<Plain<grafana.FieldConfigSource>, 'defaults'> & { defaults: Field<F> };
  targets?: Query[];
};
type AnyPanel =
  | Plain<grafana.RowPanel>
  | Panel<'bargauge', BarGauge>
  | Panel<'heatmap', Heatmap, HeatmapField>
  | Panel<'stat', Stat>
  | Panel<'state-timeline', StateTimeline, StateTimelineField>
  | Panel<'text', Text>
  | Panel<'timeseries', TimeSeries, TimeSeriesField>;

export type Dashboard = Omit<Plain<grafana.Dashboard>, 'panels' | 'annotations'> & {
  uid: string;
  title: string;
  panels: AnyPanel[];
  annotations: { list: (Omit<Plain<grafana.AnnotationQuery>, 'target'> & { target?: Query })[] };
};
