//! `portchurn man`: the man pages, from the definitions of the command line.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::cli::{Cli, EXIT_STATUS};
use crate::commands::DONE;

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write every page into this folder, portchurn.1 and portchurn-top.1 and so on, instead of the first to stdout
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Writes the pages.
pub fn run(args: &Args) -> Result<u8> {
    let mut command = Cli::command();
    command.build();
    let Some(folder) = &args.folder else {
        std::io::stdout().write_all(&page(&command)?)?;
        return DONE;
    };
    let written = fs::create_dir_all(folder).map_err(anyhow::Error::from).and_then(|()| {
        let pages =
            std::iter::once(&command).chain(command.get_subcommands().filter(|one| !one.is_hide_set()));
        for command in pages {
            let name = command.get_display_name().unwrap_or(command.get_name());
            fs::write(folder.join(format!("{name}.1")), page(command)?)?;
        }
        Ok(())
    });
    written.with_context(|| format!("write man pages to {}", folder.display()))?;
    DONE
}

/// One page. What stands behind the options of a help text is laid out already.
fn page(command: &Command) -> Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(text) = command.get_after_help().filter(|_| !command.has_subcommands()) {
        page.extend(as_it_is(&text.to_string()).bytes());
    }
    page.extend(as_it_is(EXIT_STATUS).bytes());
    Ok(page)
}

/// A line that ends with a colon and is not indented begins a section; the others stay lines.
fn as_it_is(text: &str) -> String {
    let mut roff = String::new();
    let mut is_open = false;
    for line in text.lines() {
        match line.strip_suffix(':').filter(|title| !title.starts_with(' ')) {
            Some(title) => {
                roff += &format!("{}.SH {}\n.nf\n", if is_open { ".fi\n" } else { "" }, title.to_uppercase());
                is_open = true;
            }
            None => {
                if !is_open {
                    roff += ".SH NOTES\n.nf\n";
                    is_open = true;
                }
                roff += &escaped(line);
            }
        }
    }
    if is_open {
        roff += ".fi\n";
    }
    roff
}

/// No line is taken for a request, and no hyphen for a soft one.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{line}\n")
}

#[cfg(test)]
mod tests {
    use super::as_it_is;

    #[test]
    fn examples_keep_their_lines() {
        let roff = as_it_is("Examples:\n  portchurn top -D 3306\n.hidden\nExit status:\n  0  done");
        let lines = [
            ".SH EXAMPLES",
            ".nf",
            "  portchurn top \\-D 3306",
            "\\&.hidden",
            ".fi",
            ".SH EXIT STATUS",
            ".nf",
            "  0  done",
            ".fi",
            "",
        ];
        assert_eq!(roff, lines.join("\n"));
    }
}
