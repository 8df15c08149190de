//! Small bar charts in SVG, one panel per case.

use std::fmt::Write;

const COLUMNS: usize = 4;
const WIDTH: usize = 250;
const LINE: usize = 16;
const LABEL: usize = 118;
const BAR: usize = WIDTH - LABEL - 52;

/// A panel of bars per case, each with its own scale: the longest bar is the worst policy.
pub(crate) fn bars(title: &str, panels: &[(&str, Vec<(&str, f64)>)]) -> String {
    let lines = panels.iter().map(|(_, rows)| rows.len()).max().unwrap_or_default();
    let height = (lines + 2) * LINE;
    let rows = panels.len().div_ceil(COLUMNS);
    let (all_width, all_height) = (COLUMNS * WIDTH, rows * height + 2 * LINE);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {all_width} {all_height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"{LINE}\" font-size=\"13\" font-weight=\"bold\">{title}</text>\n"
    );
    for (n, (name, rows)) in panels.iter().enumerate() {
        let (left, top) = (n % COLUMNS * WIDTH + 8, n / COLUMNS * height + 2 * LINE);
        let most = rows.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        // Writing into a `String` does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{name}</text>",
            top + LINE - 4
        );
        for (line, (policy, value)) in rows.iter().enumerate() {
            let y = top + (line + 1) * LINE;
            let length = value / most * BAR as f64;
            let colour = if policy.starts_with("default") { "#1f77b4" } else { "#b0b0b0" };
            let digits = if *value < 1.0 { 3 } else { usize::from(*value < 20.0) };
            let _ = writeln!(
                svg,
                "<text x=\"{left}\" y=\"{}\">{policy}</text>\
                 <rect x=\"{}\" y=\"{}\" width=\"{length:.1}\" height=\"11\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{value:.digits$}</text>",
                y + 10,
                left + LABEL,
                y + 1,
                (left + LABEL) as f64 + length + 4.0,
                y + 10,
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
