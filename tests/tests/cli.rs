//! What portchurn says to a wrong command line, without privileges, and where the kernel gives it nothing: one clear
//! reason, the right exit status, never a panic. Needs no privileges unless a test says SKIP without them.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::programs::{bound, complaint, portchurn, run_portchurn};
use portchurn_tests::harness::{check, check_where_possible, skip};

/// Runs portchurn, which must end with this status. What it said on stderr.
fn ends_with(status: i32, arguments: &[&str]) -> Result<String> {
    let output = run_portchurn(arguments)?;
    let text = complaint(&output)?;
    ensure!(output.status.code() == Some(status), "{arguments:?}: {}: {text}", output.status);
    Ok(text)
}

fn printed(arguments: &[&str]) -> Result<String> {
    let output = run_portchurn(arguments)?;
    let text = complaint(&output)?;
    ensure!(output.status.success(), "{arguments:?}: {}: {text}", output.status);
    String::from_utf8(output.stdout).context("read stdout")
}

fn one_line(text: &str) -> Result<()> {
    ensure!(text.trim_end().lines().count() == 1, "more than one line: {text}");
    Ok(())
}

#[test]
fn an_unknown_flag_gets_a_suggestion() {
    check("an_unknown_flag_gets_a_suggestion", || {
        let text = ends_with(2, &["top", "--intervall", "1s"])?;
        ensure!(text.contains("'--interval'"), "{text}");
        let text = ends_with(2, &["topp"])?;
        ensure!(text.contains("'top'"), "{text}");
        Ok(())
    });
}

#[test]
fn a_wrong_value_is_a_usage_error_that_names_it() {
    check("a_wrong_value_is_a_usage_error_that_names_it", || {
        for (arguments, named) in [
            (&["top", "-b", "--interval", "0"][..], "'0'"),
            (&["top", "-b", "--interval", "0ms"], "'0ms'"),
            (&["top", "-b", "--interval", "soon"], "'soon'"),
            (&["top", "-b", "--duration", "-1"], "-1"),
            (&["top", "-b", "-n", "0"], "'0'"),
            (&["top", "-b", "-p", "init"], "'init'"),
            (&["top", "-b", "-D", "0"], "'0'"),
            (&["top", "-b", "-D", "65536"], "'65536'"),
            (&["top", "-b", "-L", "80,http"], "'http'"),
            (&["top", "-b", "-o", "yaml"], "'yaml'"),
            (&["top", "-b", "-4", "-6"], "--ipv6"),
            (&["top", "-b", "-c", ""], "--comm"),
            (&["top", "-b", "--netns", "no-such-namespace"], "no-such-namespace"),
            (&["top", "-b", "--netns", "/etc/passwd"], "/etc/passwd is no network namespace"),
            (&["top", "-b", "--netns", ""], "no network namespace"),
            (&["top", "-b", "--max-keys", "0"], "'0'"),
            (&["top", "-b", "--max-keys", "4294967295"], "'4294967295'"),
            (&["top", "--once", "-n", "3"], "'--once'"),
            (&["top", "-b", "-f", "dport=65536"], "0 to 65535"),
            (&["timewait", "-f", "dport=1"], "'-f'"),
            (&["top", "-b", "--sort", "nonsense"], "nonsense"),
            (&["top", "-b", "--columns", "nonsense"], "nonsense"),
            (&["top", "-b", "--attach", "nonsense=tp_btf"], "nonsense"),
            (&["top", "-b", "--attach", "inet_sock_set_state=kprobe"], "kprobe"),
            (&["trace", "-n", "none"], "'none'"),
            (&["completions", "tcsh"], "'tcsh'"),
        ] {
            let text = ends_with(2, arguments)?;
            ensure!(text.contains(named), "{arguments:?}: {named} is not named: {text}");
        }
        Ok(())
    });
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    check("bytes_that_are_no_text_are_refused", || {
        for arguments in [["top", "--comm"], ["top", "--filter"], ["top", "--interval"]] {
            let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
            arguments.push(OsStr::from_bytes(b"\xff\xfe"));
            let output = run_portchurn(&arguments)?;
            let text = complaint(&output)?;
            ensure!(output.status.code() == Some(2), "{arguments:?}: {}: {text}", output.status);
        }
        Ok(())
    });
}

#[test]
fn a_malformed_filter_is_shown_with_a_caret_at_the_place() {
    check("a_malformed_filter_is_shown_with_a_caret_at_the_place", || {
        for (filter, wrong) in [
            ("dport=abc", "abc"),
            ("nonsense=1", "nonsense"),
            ("comm=nginx and life<10parsecs", "10parsecs"),
            ("dest in 10.0.0.0/99", "10.0.0.0/99"),
            ("closer=nobody", "nobody"),
        ] {
            let text = ends_with(2, &["top", "-b", "--filter", filter])?;
            let lines: Vec<&str> = text.lines().collect();
            let below = lines
                .iter()
                .position(|line| {
                    line.contains('^') && line.trim_matches([' ', '|', '^', '~', '-']).is_empty()
                })
                .or_else(|| {
                    lines.iter().position(|line| line.trim_start_matches([' ', '|']).starts_with('^'))
                });
            let below = below.with_context(|| format!("no caret: {text}"))?;
            let above = lines[below.checked_sub(1).context("a line above the caret")?];
            let start =
                above.find(filter).with_context(|| format!("the filter is not above the caret: {text}"))?;
            let column = lines[below].find('^').context("a caret")?.checked_sub(start);
            let expected = filter.find(wrong).context("the wrong part")?;
            ensure!(column == Some(expected), "the caret is at {column:?}, not at {expected}: {text}");
        }
        Ok(())
    });
}

#[test]
fn a_filter_that_ends_too_soon_is_refused() {
    check("a_filter_that_ends_too_soon_is_refused", || {
        for filter in ["(dport=1", "dport=", "dport=1 and", "!", ")", "dport=1 or or dport=2"] {
            let text = ends_with(2, &["top", "-b", "--filter", filter])?;
            ensure!(text.contains('^'), "{filter}: no caret: {text}");
        }
        Ok(())
    });
}

#[test]
fn a_pid_that_does_not_exist_is_one_clear_line() {
    check("a_pid_that_does_not_exist_is_one_clear_line", || {
        // The kernel gives no number above 2^22.
        for command in ["top", "trace"] {
            let output = run_portchurn([command, "-p", "4194305"])?;
            let text = complaint(&output)?;
            ensure!(matches!(output.status.code(), Some(1 | 2)), "{}: {text}", output.status);
            ensure!(text.contains("4194305"), "{text}");
            one_line(&text)?;
        }
        Ok(())
    });
}

#[test]
fn an_output_that_cannot_be_written_is_one_clear_line() {
    check("an_output_that_cannot_be_written_is_one_clear_line", || {
        for command in [&["top", "-b", "-n", "1"][..], &["trace", "-n", "1"]] {
            let text = ends_with(1, &[command, &["-w", "/nonexistent/x"]].concat())?;
            ensure!(text.contains("/nonexistent/x"), "{text}");
            one_line(&text)?;
        }
        Ok(())
    });
}

#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    check("a_full_disk_is_an_error_and_no_panic", || {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").map_err(skip)?;
        for arguments in [&["completions", "bash"][..], &["man"], &["check"]] {
            let output = Command::new(portchurn()?)
                .args(arguments)
                .stdout(full.try_clone().context("use /dev/full")?)
                .output()
                .context("run portchurn")?;
            let text = complaint(&output)?;
            ensure!(output.status.code() == Some(1), "{arguments:?}: {}: {text}", output.status);
        }
        Ok(())
    });
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    check("a_reader_that_is_gone_is_no_error", || {
        for arguments in
            [&["completions", "bash"][..], &["man"], &["--help"], &["check"], &["check", "-o", "json"]]
        {
            let (reader, writer) = std::io::pipe().context("make a pipe")?;
            drop(reader);
            let output = Command::new(portchurn()?)
                .args(arguments)
                .stdout(writer)
                .stderr(Stdio::piped())
                .output()
                .context("run portchurn")?;
            let text = complaint(&output)?;
            ensure!(text.is_empty(), "{arguments:?}: {text}");
            // `check` may have something to say about this machine.
            let is_well = output.status.success() || arguments[0] == "check";
            ensure!(is_well, "{arguments:?}: {}", output.status);
        }
        Ok(())
    });
}

/// Runs a copy of portchurn as a user who may nothing.
fn as_nobody(arguments: &[&str]) -> Result<Output> {
    const NOBODY: u32 = 65534;
    let folder = Folder::new()?;
    // The original may lie where others cannot look.
    let copy = folder.path().join("portchurn");
    fs::copy(portchurn()?, &copy).context("copy portchurn")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).context("open the folder")?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).context("open the copy")?;
    let mut command = Command::new(&copy);
    command.args(arguments).stdin(Stdio::null()).current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    bound(&mut command);
    command.output().context("run portchurn as nobody")
}

#[test]
fn without_privileges_it_says_which_and_how_to_grant_them() {
    check("without_privileges_it_says_which_and_how_to_grant_them", || {
        for command in [&["top", "-b", "-n", "1"][..], &["trace", "-n", "1"]] {
            let output = as_nobody(command)?;
            let text = complaint(&output)?;
            ensure!(output.status.code() == Some(4), "{command:?}: {}: {text}", output.status);
            ensure!(output.stdout.is_empty(), "{command:?} printed something");
            for word in ["CAP_BPF", "CAP_PERFMON", "sudo", "setcap cap_bpf,cap_perfmon"] {
                ensure!(text.contains(word), "{command:?}: '{word}' is not named: {text}");
            }
        }
        Ok(())
    });
}

#[test]
fn check_says_what_is_missing_and_exits_accordingly() {
    check("check_says_what_is_missing_and_exits_accordingly", || {
        let output = as_nobody(&["check"])?;
        complaint(&output)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(4), "{}: {text}", output.status);
        for word in ["CAP_BPF", "CAP_PERFMON", "missing", "setcap"] {
            ensure!(text.contains(word), "'{word}' is not named: {text}");
        }
        let output = as_nobody(&["check", "-o", "json"])?;
        let json: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("understand check -o json")?;
        ensure!(json.get("schema_version").is_some(), "no schema_version: {json}");
        Ok(())
    });
}

#[test]
fn wrong_input_comes_before_missing_privileges() {
    check("wrong_input_comes_before_missing_privileges", || {
        for (status, arguments) in [
            (2, &["top", "-b", "--interval", "0"][..]),
            (2, &["top", "-b", "-p", "4194305"]),
            (1, &["top", "-b", "-n", "1", "-w", "/nonexistent/x"]),
        ] {
            let output = as_nobody(arguments)?;
            let text = complaint(&output)?;
            ensure!(output.status.code() == Some(status), "{arguments:?}: {}: {text}", output.status);
        }
        Ok(())
    });
}

#[test]
fn without_tracefs_the_classic_tracepoint_says_how_to_mount_it() {
    check("without_tracefs_the_classic_tracepoint_says_how_to_mount_it", || {
        if !rustix::process::geteuid().is_root() {
            return Err(skip("only root can take tracefs away"));
        }
        for arguments in [
            &["--attach", "inet_sock_set_state=tracepoint"][..],
            &["--no-btf", "--attach", "inet_sock_set_state=tracepoint"],
        ] {
            let mut command = Command::new(portchurn()?);
            command.args(["top", "-b", "-n", "1", "-i", "100ms"]).args(arguments).stdin(Stdio::null());
            Tracefs::Unmounted.prepare(&mut command);
            bound(&mut command);
            let output = command.output().map_err(skip)?;
            let text = complaint(&output)?;
            ensure!(matches!(output.status.code(), Some(4 | 5)), "{}: {text}", output.status);
            ensure!(text.contains("mount -t tracefs"), "{text}");
        }
        Ok(())
    });
}

#[test]
fn help_and_version_go_to_stdout() {
    check("help_and_version_go_to_stdout", || {
        for command in [&[][..], &["top"], &["trace"], &["check"], &["completions"], &["man"]] {
            for flag in ["-h", "--help"] {
                let text = printed(&[command, &[flag]].concat())?;
                ensure!(text.contains("Usage: portchurn"), "{command:?} {flag}: {text}");
            }
        }
        let short = printed(&["-V"])?;
        one_line(&short)?;
        let long = printed(&["--version"])?;
        ensure!(long.contains("BPF object"), "{long}");
        Ok(())
    });
}

#[test]
fn explanations_completions_and_man_pages_are_generated() {
    check("explanations_completions_and_man_pages_are_generated", || {
        for shell in ["bash", "zsh", "fish"] {
            let script = printed(&["completions", shell])?;
            for word in ["portchurn", "top", "trace", "interval"] {
                ensure!(script.contains(word), "{shell}: '{word}' is missing");
            }
        }
        for command in ["top", "trace"] {
            let text = printed(&[command, "-f", "help"])?;
            ensure!(text.contains("dport=3306"), "the filter is not explained: {text}");
        }
        let page = printed(&["man"])?;
        ensure!(page.contains(".TH portchurn"), "no man page: {page}");
        let folder = Folder::new()?;
        let folder = folder.path().join("man1");
        printed(&["man", folder.to_str().context("a path that is text")?])?;
        for name in ["portchurn.1", "portchurn-top.1", "portchurn-trace.1", "portchurn-check.1"] {
            let text = fs::read_to_string(folder.join(name)).with_context(|| format!("read {name}"))?;
            ensure!(text.contains(".SH") && text.contains("EXIT STATUS"), "{name} is no man page");
        }
        Ok(())
    });
}

#[test]
fn bash_understands_its_completions() {
    check_where_possible("bash_understands_its_completions", || understands("bash"));
}

#[test]
fn zsh_understands_its_completions() {
    check_where_possible("zsh_understands_its_completions", || understands("zsh"));
}

#[test]
fn fish_understands_its_completions() {
    check_where_possible("fish_understands_its_completions", || understands("fish"));
}

fn understands(shell: &str) -> Result<()> {
    has_valid_syntax(shell, &printed(&["completions", shell])?)
}

/// Asks the shell itself.
fn has_valid_syntax(shell: &str, script: &str) -> Result<()> {
    let started = Command::new(shell)
        .arg("-n")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else { return Err(skip(format!("{shell} is not installed"))) };
    let mut stdin = child.stdin.take().context("a pipe was asked for")?;
    stdin.write_all(script.as_bytes()).context("give the script to the shell")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for the shell")?;
    ensure!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
