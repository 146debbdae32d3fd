//! A report as one HTML page that needs nothing beside it.

use super::{Error, Report};
use maud::{DOCTYPE, PreEscaped, html};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #ddd}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.ok{color:#00734f}.missed{color:#b00020;font-weight:600}\
svg{width:100%;height:auto}code{background:#f3f3f3;padding:.1rem .3rem}dl{display:grid;grid-template-columns:8rem 1fr}dd{margin:0}";

pub fn page(report: &Report) -> Result<String, Error> {
    let plots = report
        .plots
        .iter()
        .map(|plot| Ok((&plot.title, plot.svg()?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let machine = &report.machine;
    let title = format!("log-capturer {}", report.name);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                dl {
                    dt { "date" } dd { (report.date) }
                    dt { "commit" } dd { (report.commit) }
                    dt { "compiler" } dd { (report.rustc) }
                    dt { "machine" } dd { (machine.cpus) " x " (machine.cpu) ", " (machine.memory_gib) " GiB" }
                    dt { "system" } dd { "Linux " (machine.kernel) ", " (machine.disk) }
                    dt { "command" } dd { code { (report.command) } }
                }
                h2 { "Figures" }
                table {
                    thead { tr { th {} th {} th { "measured" } th { "target" } th {} } }
                    tbody {
                        @for (at, figure) in report.figures.iter().enumerate() {
                            @let [name, measured, target, mark] = figure.cells();
                            @let first = at == 0 || report.figures[at - 1].group != figure.group;
                            tr {
                                td { @if first { (figure.group) } }
                                td { (name) }
                                td.n { (measured) }
                                td { (target) }
                                td class=(mark.to_lowercase()) { (mark) }
                            }
                        }
                    }
                }
                @for (title, svg) in &plots {
                    h2 { (title) }
                    figure style="margin:0" { (PreEscaped(svg)) }
                }
            }
        }
    };
    Ok(page.into_string())
}
