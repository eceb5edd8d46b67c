//! `cargo xtask protos`: every hook quotes the prototype of the kernel function that it hangs on, and since when, in
//! one form: `match-proto:vX.Y:path: prototype`. Who meets a new kernel then knows what to compare.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::repo;

const HOOKS: &str = "portchurn-ebpf/src/hooks";
const MARK: &str = "match-proto:";

pub(crate) fn run() -> Result<()> {
    let root = repo::root()?;
    let mut complaints = Vec::new();
    for file in repo::files_below(&root, Path::new(HOOKS))? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        if name == "mod" {
            continue;
        }
        let text =
            std::fs::read_to_string(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        complaints.extend(complaints_about(&name, &text).map(|what| format!("{}{what}", file.display())));
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    ensure!(complaints.is_empty(), "{} prototypes to mend", complaints.len());
    println!("protos: every hook quotes its prototype");
    Ok(())
}

/// Complaints about the hook `name`; each continues its path.
fn complaints_about(name: &str, text: &str) -> impl Iterator<Item = String> {
    let quoted: Vec<_> = text
        .lines()
        .enumerate()
        .filter_map(|(line, content)| Some((line + 1, content.split_once(MARK)?.1)))
        .collect();
    let missing = quoted.is_empty().then(|| format!(": no `{MARK}vX.Y:path: prototype`"));
    let wrong = quoted
        .into_iter()
        .filter_map(|(line, quote)| wrong_in(name, quote).map(|why| format!(":{line}: {why}")))
        .collect::<Vec<_>>();
    missing.into_iter().chain(wrong)
}

/// What is wrong with `vX.Y:path: prototype`.
fn wrong_in(name: &str, quote: &str) -> Option<String> {
    let Some((version, rest)) = quote.split_once(':') else {
        return Some(format!("`{quote}` has no version"));
    };
    if !is_version(version) {
        return Some(format!("`{version}` is no kernel version (v6.12)"));
    }
    let Some((path, prototype)) = rest.split_once(": ") else {
        return Some("no path before the prototype (`path: prototype`)".to_owned());
    };
    if !(path.ends_with(".c") || path.ends_with(".h")) || path.contains(' ') {
        return Some(format!("`{path}` is no file of the kernel's source"));
    }
    let quotes_it = prototype.contains(&format!("{name}(")) || prototype.starts_with("TP_PROTO(");
    if !quotes_it || !prototype.ends_with(')') {
        return Some(format!("`{prototype}` is no prototype of {name}"));
    }
    None
}

fn is_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = text.strip_prefix('v').and_then(|numbers| numbers.split_once('.'));
    parts.is_some_and(|(major, minor)| number(major) && number(minor))
}

#[cfg(test)]
mod tests {
    use super::complaints_about;

    fn complaints(text: &str) -> Vec<String> {
        complaints_about("tcp_connect", text).collect()
    }

    #[test]
    fn functions_and_tracepoints_pass() {
        let function = "//! match-proto:v5.10:net/ipv4/tcp_output.c: int tcp_connect(struct sock *sk)";
        let tracepoint = "//! match-proto:v5.10:include/trace/events/sock.h: TP_PROTO(const struct sock *sk)";
        assert!(complaints(&format!("{function}\n{tracepoint}\n")).is_empty());
    }

    #[test]
    fn none_at_all_is_seen() {
        assert_eq!(complaints("//! A hook.").len(), 1);
    }

    #[test]
    fn each_part_is_looked_at() {
        for wrong in [
            "match-proto:5.10:net/a.c: int tcp_connect(void)",
            "match-proto:v5:net/a.c: int tcp_connect(void)",
            "match-proto:v5.10:net/a: int tcp_connect(void)",
            "match-proto:v5.10:net/a.c int tcp_connect(void)",
            "match-proto:v5.10:net/a.c: int tcp_close(void)",
            "match-proto:v5.10:net/a.c: int tcp_connect(void",
        ] {
            assert_eq!(complaints(wrong).len(), 1, "{wrong}");
        }
    }
}
