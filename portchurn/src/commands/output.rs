//! Where data goes: stdout, or a file that was named. It must not know what is written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Opens it.
///
/// # Errors
/// When the file cannot be created.
pub fn open_output(path: Option<&Path>) -> Result<Box<dyn Write>> {
    match path {
        None => {
            let named = Named { name: "stdout".to_owned(), output: Stdout(io::stdout()) };
            Ok(Box::new(BufWriter::new(named)))
        }
        Some(path) if path.as_os_str() == "-" => open_output(None),
        Some(path) => {
            let name = path.display().to_string();
            let file = File::create(path).with_context(|| format!("write to {name}"))?;
            Ok(Box::new(BufWriter::new(Named { name, output: file })))
        }
    }
}

/// An output whose errors say which it is.
struct Named<W> {
    name: String,
    output: W,
}

impl<W> Named<W> {
    fn say<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|err| match err.kind() {
            // The writer around this one tries again.
            io::ErrorKind::Interrupted => err,
            kind => io::Error::new(kind, format!("write to {}: {err}", self.name)),
        })
    }
}

impl<W: Write> Write for Named<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes);
        self.say(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.output.flush();
        self.say(flushed)
    }
}

/// stdout, which notices that its reader has gone also when there is nothing to write: on a quiet host that may last.
struct Stdout(io::Stdout);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        if has_no_reader(&self.0) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

/// Whether this is a pipe whose other end is closed (poll(2)).
fn has_no_reader(output: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&output, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::has_no_reader;

    #[test]
    fn a_reader_that_has_gone_is_noticed_without_a_write() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!has_no_reader(&writer));
        drop(reader);
        assert!(has_no_reader(&writer));
    }

    #[test]
    fn a_file_needs_no_reader() {
        assert!(!has_no_reader(std::fs::File::open("/dev/null").unwrap()));
    }
}
