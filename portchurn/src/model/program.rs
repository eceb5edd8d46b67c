//! What a process runs, in words an operator would use: the executable, and for an interpreter its script.

use crate::model::row::file_name;
use crate::model::sample::Process;
use crate::model::snapshot::ProcessStats;

/// Processes with the same one are shown as one.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct ProgramKey {
    /// File name of the executable, or `comm`.
    pub program: String,
    /// What an interpreter runs.
    pub script: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container.
    pub container: Option<String>,
    /// `comm` of the parent.
    pub parent_program: Option<String>,
}

impl ProgramKey {
    /// The group of a process.
    pub fn of(process: &Process) -> Self {
        let (program, script) = name_and_script(&process.comm, process.exe.as_deref(), &process.argv);
        Self {
            program,
            script,
            unit: process.unit.clone(),
            container: process.container.clone(),
            parent_program: process.parent_comm.clone(),
        }
    }

    /// The group of a process in a snapshot.
    pub fn of_stats(process: &ProcessStats) -> Self {
        let (program, script) = name_and_script(&process.comm, process.exe.as_deref(), &process.argv);
        Self {
            program,
            script,
            unit: process.unit.clone(),
            container: process.container.clone(),
            parent_program: process.parent_comm.clone(),
        }
    }
}

/// What a process runs: a program, and what an interpreter was told to run.
pub(super) fn name_and_script(comm: &str, exe: Option<&str>, argv: &[String]) -> (String, Option<String>) {
    let program = program_name(comm, exe, argv);
    let script = interpreter(&program).and_then(|interpreter| interpreter.script(argv));
    (program, script)
}

/// The name by which people call it: that under which it was started, so that `sh` stays `sh` though its file is
/// `dash`, unless the process gave itself a title.
fn program_name(comm: &str, exe: Option<&str>, argv: &[String]) -> String {
    let exe = exe.map(file_name).filter(|name| !name.is_empty());
    let started_as = argv.first().map(|argv0| file_name(argv0.trim_start_matches('-')));
    match (exe, started_as) {
        (_, Some(name)) if !name.is_empty() && !name.contains([' ', ':']) => name.to_owned(),
        (Some(name), _) => name.to_owned(),
        _ => comm.to_owned(),
    }
}

/// How an interpreter is told what to run.
struct Interpreter {
    /// Name, without a version at its end.
    name: &'static str,
    /// Options that take the next argument.
    with_value: &'static [&'static str],
    /// Options whose argument is the program: a module, a text, an archive.
    runs: &'static [&'static str],
}

const INTERPRETERS: &[Interpreter] = &[
    Interpreter { name: "python", with_value: &["-W", "-X", "--check-hash-based-pycs"], runs: &["-m", "-c"] },
    Interpreter { name: "pypy", with_value: &["-W", "-X"], runs: &["-m", "-c"] },
    Interpreter { name: "php", with_value: &["-c", "-d", "-z"], runs: &["-r", "-f"] },
    Interpreter { name: "ruby", with_value: &["-C", "-I", "-r", "-E"], runs: &["-e"] },
    Interpreter { name: "perl", with_value: &["-I", "-M"], runs: &["-e", "-E"] },
    Interpreter {
        name: "node",
        with_value: &["-r", "--require", "--import", "--loader"],
        runs: &["-e", "-p"],
    },
    Interpreter {
        name: "java",
        with_value: &["-cp", "-classpath", "--class-path", "-p"],
        runs: &["-jar", "-m"],
    },
    Interpreter { name: "bash", with_value: &["-O", "--rcfile"], runs: &["-c"] },
    Interpreter { name: "dash", with_value: &[], runs: &["-c"] },
    Interpreter { name: "sh", with_value: &[], runs: &["-c"] },
];

/// `php` of `php8.2`.
pub fn without_version(program: &str) -> &str {
    program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
}

fn interpreter(program: &str) -> Option<&'static Interpreter> {
    let base = without_version(program);
    INTERPRETERS.iter().find(|interpreter| interpreter.name == base)
}

/// A text given on the command line is no name; this stands for it.
const INLINE: &str = "-c";

impl Interpreter {
    fn script(&self, argv: &[String]) -> Option<String> {
        let mut rest = argv.iter().skip(1);
        while let Some(argument) = rest.next() {
            if self.runs.contains(&argument.as_str()) {
                let is_text = matches!(argument.as_str(), "-c" | "-e" | "-E" | "-p" | "-r");
                return if is_text { Some(INLINE.to_owned()) } else { rest.next().cloned() };
            }
            if self.with_value.contains(&argument.as_str()) {
                rest.next();
            } else if !argument.starts_with('-') {
                return Some(argument.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::ProgramKey;
    use crate::model::sample::Process;

    fn key(exe: &str, argv: &[&str]) -> ProgramKey {
        ProgramKey::of(&Process {
            comm: "comm".to_owned(),
            exe: (!exe.is_empty()).then(|| exe.to_owned()),
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            ..Process::default()
        })
    }

    #[test]
    fn an_interpreter_is_known_by_its_script() {
        for (argv, script) in [
            (&["python3", "worker.py"][..], Some("worker.py")),
            (&["python3.11", "-u", "-W", "ignore", "/srv/sync.py", "--all"], Some("/srv/sync.py")),
            (&["python3", "-m", "http.server"], Some("http.server")),
            (&["python3", "-c", "import socket"], Some("-c")),
            (&["python3"], None),
            (&["java", "-cp", "a.jar", "-Xmx1g", "org.example.Main"], Some("org.example.Main")),
            (&["java", "-jar", "app.jar"], Some("app.jar")),
            (&["bash", "/usr/local/bin/probe.sh"], Some("/usr/local/bin/probe.sh")),
            (&["curl", "http://example.org"], None),
        ] {
            assert_eq!(key("", argv).script.as_deref(), script, "{argv:?}");
        }
    }

    #[test]
    fn a_program_is_known_by_the_name_it_was_started_under() {
        assert_eq!(key("/usr/bin/dash", &["sh", "x.sh"]).program, "sh");
        assert_eq!(key("/usr/sbin/nginx", &["nginx: worker process"]).program, "nginx");
        assert_eq!(key("/usr/bin/bash", &["-bash"]).program, "bash");
        assert_eq!(key("curl", &[]).program, "curl");
        assert_eq!(key("", &[]).program, "comm");
        assert_eq!(key("", &[""]).program, "comm");
    }
}
