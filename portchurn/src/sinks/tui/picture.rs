//! A drawn screen as a picture: one self-contained SVG, for documents. Knows cells and colours, nothing of what they
//! show.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// Size of a cell of a 14 px monospaced font.
const CELL_WIDTH: f64 = 8.4;
const CELL_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 14.0;

const BACKGROUND: &str = "#0d1117";
const FOREGROUND: &str = "#d0d7de";

/// How a run of cells looks.
#[derive(Clone, Debug, PartialEq)]
struct Look {
    foreground: String,
    background: String,
    bold: bool,
    dim: bool,
}

/// Cells of one line that look the same.
struct Run {
    first: usize,
    cells: usize,
    text: String,
    look: Look,
}

/// The screen as an SVG document. `title` is read to those who cannot see it.
pub fn render_to_svg(buffer: &Buffer, title: &str) -> String {
    let (columns, rows) = (usize::from(buffer.area.width), usize::from(buffer.area.height));
    let width = columns as f64 * CELL_WIDTH + 2.0 * MARGIN;
    let height = rows as f64 * CELL_HEIGHT + 2.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\" role=\"img\" font-size=\"14\" xml:space=\"preserve\" \
         font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n",
        escaped(title)
    );
    for (row, line) in buffer.content().chunks(columns.max(1)).enumerate() {
        for run in runs(line) {
            write_run(&mut svg, &run, row);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn runs(line: &[Cell]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut covered = 0;
    for (at, cell) in line.iter().enumerate() {
        if at < covered {
            continue;
        }
        let symbol = if cell.symbol().is_empty() { " " } else { cell.symbol() };
        // A wide character covers the cell behind it, which holds a blank of its own.
        let cells = crate::sinks::text::width(symbol).max(1);
        covered = at + cells;
        let look = Look::of(cell);
        match runs.last_mut() {
            Some(run) if run.look == look => {
                run.text.push_str(symbol);
                run.cells += cells;
            }
            _ => runs.push(Run { first: at, cells, text: symbol.to_owned(), look }),
        }
    }
    runs
}

fn write_run(svg: &mut String, run: &Run, row: usize) {
    let x = run.first as f64 * CELL_WIDTH + MARGIN;
    let y = row as f64 * CELL_HEIGHT + MARGIN;
    let width = run.cells as f64 * CELL_WIDTH;
    let look = &run.look;
    let mut element = String::new();
    if look.background != BACKGROUND {
        element += &format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{CELL_HEIGHT}\" fill=\"{}\"/>\n",
            look.background
        );
    }
    if !run.text.trim().is_empty() {
        let bold = if look.bold { " font-weight=\"bold\"" } else { "" };
        let dim = if look.dim { " opacity=\"0.6\"" } else { "" };
        let baseline = y + CELL_HEIGHT * 0.75;
        // The length keeps columns aligned whatever font the reader has.
        element += &format!(
            "<text x=\"{x:.1}\" y=\"{baseline:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
             fill=\"{}\"{bold}{dim}>{}</text>\n",
            look.foreground,
            escaped(&run.text)
        );
    }
    svg.write_str(&element).expect("writing to a String cannot fail");
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let (mut foreground, mut background) = (hex(cell.fg, FOREGROUND), hex(cell.bg, BACKGROUND));
        if cell.modifier.contains(Modifier::REVERSED) {
            std::mem::swap(&mut foreground, &mut background);
        }
        let bold = cell.modifier.contains(Modifier::BOLD);
        Self { foreground, background, bold, dim: cell.modifier.contains(Modifier::DIM) }
    }
}

fn hex(colour: Color, default: &str) -> String {
    let named = match colour {
        Color::Rgb(red, green, blue) => return format!("#{red:02x}{green:02x}{blue:02x}"),
        // The grey ramp of the 256 colours: 8, 18, 28, …
        Color::Indexed(index @ 232..) => {
            let level = 8 + u16::from(index - 232) * 10;
            return format!("#{level:02x}{level:02x}{level:02x}");
        }
        Color::Red | Color::LightRed => "#ff7b72",
        Color::Green | Color::LightGreen => "#7ee787",
        Color::Yellow | Color::LightYellow => "#e3b341",
        Color::Blue | Color::LightBlue => "#79c0ff",
        Color::Magenta | Color::LightMagenta => "#d2a8ff",
        Color::Cyan | Color::LightCyan => "#56d4dd",
        Color::Gray => "#b1bac4",
        Color::DarkGray => "#8b949e",
        Color::White => "#ffffff",
        Color::Black => "#000000",
        _ => default,
    };
    named.to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use ratatui::buffer::Buffer;
    use ratatui::layout::Rect;
    use ratatui::style::{Color, Style};

    use super::render_to_svg;

    #[test]
    fn cells_become_aligned_text_and_markup_is_escaped() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        buffer.set_string(0, 0, "a<b>&工", Style::new().fg(Color::Red));
        buffer.set_string(0, 1, "sel", Style::new().bg(Color::Indexed(236)));
        let svg = render_to_svg(&buffer, "a \"screen\"");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("<title>a &quot;screen&quot;</title>"));
        assert!(svg.contains("fill=\"#ff7b72\">a&lt;b&gt;&amp;工</text>"), "{svg}");
        assert!(svg.contains("textLength=\"58.8\""), "seven cells of 8.4: {svg}");
        assert!(svg.contains("fill=\"#303030\""), "{svg}");
    }

    #[test]
    fn an_empty_screen_is_a_valid_picture() {
        let svg = render_to_svg(&Buffer::empty(Rect::new(0, 0, 0, 0)), "nothing");
        assert_eq!(svg.matches("<text").count(), 0);
        assert!(svg.ends_with("</svg>\n"));
    }
}
