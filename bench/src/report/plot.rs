//! Plots as SVG, drawn by the plotters crate.

use super::{Error, number};
use plotters::coord::Shift;
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

const SIZE: (u32, u32) = (860, 360);
/// Told apart also by those who do not see red and green (Okabe and Ito).
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
/// As many points of a series as can be told apart.
const POINTS_MAX: usize = 300;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plot {
    pub title: String,
    pub x: String,
    pub y: String,
    pub scale: Scale,
    pub series: Vec<Series>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    Linear,
    /// A logarithmic x.
    Log,
    /// x is 1 / (1 - percentile), shown as 90 %, 99 % and so on.
    Percentile,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    #[must_use]
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        let every = points.len().div_ceil(POINTS_MAX).max(1);
        let digits = |value: f64| (value * 1e3).round() / 1e3;
        let points = points
            .chunks(every)
            // Of those that cannot be told apart, the highest.
            .filter_map(|chunk| chunk.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)))
            .map(|(x, y)| (digits(x), digits(y)))
            .collect();
        Series { name: name.into(), points }
    }
}

impl Plot {
    pub fn svg(&self) -> Result<String, Error> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let (x, y) = self.ranges();
        let drawn = match self.scale {
            Scale::Linear => self.draw(&area, x, y, |x| number(*x)),
            Scale::Log => self.draw(&area, LogCoord::from(x.log_scale()), y, |x| number(*x)),
            Scale::Percentile => {
                self.draw(&area, LogCoord::from(x.log_scale()), y, |x| percent(*x))
            }
        };
        drawn.map_err(|what| Error::Plot { title: self.title.clone(), what })?;
        drop(area);
        Ok(svg)
    }

    fn ranges(&self) -> (Range<f64>, Range<f64>) {
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let low = points().map(|(x, _)| x).fold(f64::INFINITY, f64::min);
        let high = points().map(|(x, _)| x).fold(f64::NEG_INFINITY, f64::max);
        let top = points().map(|(_, y)| y).fold(0.0, f64::max);
        let x = match (self.scale, low < high) {
            (_, false) => 1.0..2.0,
            (Scale::Linear, true) => low..high,
            (Scale::Log | Scale::Percentile, true) => low.max(1e-3)..high,
        };
        (x, 0.0..if top > 0.0 { top * 1.05 } else { 1.0 })
    }

    fn draw<X>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        x: X,
        y: Range<f64>,
        x_label: impl Fn(&f64) -> String,
    ) -> Result<(), String>
    where
        X: AsRangedCoord<CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>, Value = f64>,
    {
        let wrong = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
        area.fill(&WHITE).map_err(wrong)?;
        let mut chart: ChartContext<'_, _, Cartesian2d<X::CoordDescType, RangedCoordf64>> =
            ChartBuilder::on(area)
                .margin(12)
                .x_label_area_size(42)
                .y_label_area_size(72)
                .build_cartesian_2d(x, y)
                .map_err(wrong)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&x_label)
            .y_label_formatter(&|y| number(*y))
            .draw()
            .map_err(wrong)?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(series.points.iter().copied(), style))
                .map_err(wrong)?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        if self.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()
                .map_err(wrong)?;
        }
        area.present().map_err(wrong)
    }
}

/// 10 is 90 %, 1000 is 99.9 %.
fn percent(x: f64) -> String {
    if x <= 1.0 {
        "0 %".into()
    } else {
        format!("{:.6}", 100.0 - 100.0 / x).trim_end_matches('0').trim_end_matches('.').to_owned()
            + " %"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_is_drawn() {
        let points = vec![(1.0, 3.0), (10.0, 4.0), (1_000.0, 9.0)];
        for scale in [Scale::Linear, Scale::Log, Scale::Percentile] {
            let series = vec![Series::new("one", points.clone()), Series::new("two", Vec::new())];
            let plot = Plot { title: "t".into(), x: "x".into(), y: "y".into(), scale, series };
            let svg = plot.svg().unwrap();
            assert!(svg.contains("<polyline") && svg.contains("#0072B2"), "{svg}");
        }
        assert_eq!(
            ["90 %", "99.9 %", "0 %"].map(String::from),
            [percent(10.0), percent(1e3), percent(1.0)]
        );
    }

    #[test]
    fn long_series_keep_their_peaks() {
        let points =
            (0..10_000).map(|x| (f64::from(x), if x == 4_321 { 9.0 } else { 1.0 })).collect();
        let series = Series::new("s", points);
        assert!(series.points.len() <= POINTS_MAX && series.points.contains(&(4_321.0, 9.0)));
    }
}
