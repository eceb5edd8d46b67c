//! The line between two portchurns: one that runs answers, one that asks goes away again. A socket in a directory that
//! only its owner may enter, and still each caller is looked at: root, or the same user.

use std::fs::{DirBuilder, read_dir, remove_file};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use crate::model::who::{Query, Reply};

/// A caller that is silent for longer is no caller.
const PATIENCE: Duration = Duration::from_secs(5);
/// No question is longer. Bytes.
const QUESTION_MAX: u64 = 4096;
/// No answer is longer. Bytes.
const ANSWER_MAX: u64 = 4 << 20;

/// A question, and where the answer goes.
pub type Question = (Query, Sender<Reply>);

/// The place where questions come in. It goes away when this is dropped.
#[derive(Debug)]
pub struct Counter {
    path: PathBuf,
}

impl Counter {
    /// Opens it; every question is handed to `ask`, which says whether anybody will answer.
    ///
    /// # Errors
    /// When no directory is ours to put the socket in.
    pub fn open(ask: impl Fn(Question) -> bool + Send + 'static) -> Result<Self> {
        let directory = own_directory()?;
        for left in sockets(&directory) {
            let _ = line_to(&left);
        }
        let path = directory.join(format!("{}.sock", std::process::id()));
        let _ = remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("open {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        std::thread::Builder::new()
            .name("who".to_owned())
            .spawn(move || {
                for caller in listener.incoming().flatten() {
                    // One after the other: an answer takes milliseconds.
                    if let Err(error) = serve(caller, &ask) {
                        log::debug!("a question was not answered: {error:#}");
                    }
                }
            })
            .context("start a thread")?;
        Ok(Self { path })
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = remove_file(&self.path);
    }
}

/// Whether somebody with this user id may ask.
fn may_ask(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn serve(caller: UnixStream, ask: &impl Fn(Question) -> bool) -> Result<()> {
    let uid = socket_peercred(&caller)?.uid.as_raw();
    ensure!(may_ask(uid), "user {uid} may not ask");
    caller.set_read_timeout(Some(PATIENCE))?;
    caller.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&caller).take(QUESTION_MAX)).read_line(&mut line)?;
    let query: Query = serde_json::from_str(&line).context("read the question")?;
    let (sender, answer) = channel();
    ensure!(ask((query, sender)), "nobody is there to answer");
    let reply = answer.recv_timeout(PATIENCE).context("wait for the answer")?;
    let mut text = serde_json::to_string(&reply)?;
    text.push('\n');
    (&caller).write_all(text.as_bytes())?;
    Ok(())
}

/// Where root's lines are, and where a user's own are.
fn directories() -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::from("/run/portchurn")];
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR") {
        directories.push(Path::new(&runtime).join("portchurn"));
    }
    directories
}

fn own_directory() -> Result<PathBuf> {
    let mut refused = None;
    for directory in directories() {
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => refused = Some(error),
            _ if is_trusted(&directory) => return Ok(directory),
            _ => {}
        }
    }
    match refused {
        Some(error) => Err(error).context("make a directory for questions"),
        None => anyhow::bail!("no directory for questions is ours"),
    }
}

/// Whether a directory is root's or ours, and nobody else can put anything into it.
fn is_trusted(directory: &Path) -> bool {
    directory.symlink_metadata().is_ok_and(|metadata| {
        metadata.is_dir() && may_ask(metadata.uid()) && metadata.permissions().mode() & 0o022 == 0
    })
}

fn sockets(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "sock"))
}

/// The line to one that runs. `None`: it was killed and has left its socket behind, which is gone now.
fn line_to(path: &Path) -> Option<std::io::Result<UnixStream>> {
    let line = UnixStream::connect(path);
    if line.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) {
        let _ = remove_file(path);
        return None;
    }
    Some(line)
}

/// Whether there may be portchurns that only root may ask.
pub fn is_refused() -> bool {
    let is_closed = |directory: PathBuf| {
        read_dir(directory).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    directories().into_iter().any(is_closed)
}

/// Asks every portchurn that runs and that we may ask.
pub fn ask_all(query: &Query) -> Vec<Result<Reply>> {
    let trusted = directories().into_iter().filter(|directory| is_trusted(directory));
    let mut replies = Vec::new();
    for path in trusted.flat_map(|directory| sockets(&directory)) {
        match line_to(&path) {
            Some(Ok(stream)) => replies.push(
                ask_one(&stream, query)
                    .with_context(|| format!("portchurn {} did not answer", process_of(&path))),
            ),
            None => {}
            Some(Err(error)) => replies.push(Err(error).with_context(|| format!("ask {}", path.display()))),
        }
    }
    replies
}

/// Its number, by which its socket is called.
fn process_of(socket: &Path) -> std::borrow::Cow<'_, str> {
    socket.file_stem().unwrap_or_default().to_string_lossy()
}

fn ask_one(stream: &UnixStream, query: &Query) -> Result<Reply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_string(query)?;
    text.push('\n');
    let mut writer = stream;
    writer.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut line)?;
    serde_json::from_str(&line).context("read the answer")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{ask_one, is_trusted, may_ask, serve};
    use crate::model::who::{Query, Reply};

    #[test]
    fn a_question_is_answered_over_the_line() {
        let (here, there) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            serve(there, &|(query, reply): super::Question| {
                reply.send(Reply { history_s: f64::from(query.port), answers: Vec::new() }).is_ok()
            })
        });
        let query = Query { address: None, port: 9, netns: None };
        assert_eq!(ask_one(&here, &query).unwrap().history_s, 9.0);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn nonsense_gets_no_answer() {
        let (here, there) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &here, b"who are you?\n").unwrap();
        assert!(serve(there, &|_: super::Question| true).is_err());
    }

    #[test]
    fn only_root_and_the_same_user_may_ask() {
        assert!(may_ask(0));
        assert!(!may_ask(rustix::process::geteuid().as_raw().wrapping_add(12_345)));
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_trusted() {
        assert!(!is_trusted(&std::env::temp_dir()));
        let own = tempfile::tempdir().unwrap();
        assert!(is_trusted(own.path()));
    }
}
