//! What this kernel or this host cannot give, by something else than portchurn's word. Must not ask portchurn.

use std::fs;
use std::path::Path;

use anyhow::anyhow;

use super::{is_guest, skip};

/// Why this kernel cannot attach in this way, by something else than portchurn's word.
pub fn kernel_lacks(tier: &str, said: &str) -> Option<String> {
    let exists = |path: &str| Path::new(path).exists();
    if matches!(tier, "kprobe" | "kretprobe") && !exists("/sys/bus/event_source/devices/kprobe") {
        return Some(format!("this kernel has no kprobes ({said})"));
    }
    if matches!(tier, "tp_btf" | "fentry" | "fexit") && !exists("/sys/kernel/btf/vmlinux") {
        return Some(format!("this kernel has no BTF ({said})"));
    }
    if matches!(tier, "fentry" | "fexit") && !has_symbol("register_ftrace_direct") {
        return Some(format!("this kernel cannot call a program directly from a function ({said})"));
    }
    // The verifier's own words for a helper and for an instruction that came with a later kernel.
    if said.contains("invalid func unknown#") || said.contains("BPF_STX uses reserved fields") {
        return Some(format!("this kernel is too old for the program ({said})"));
    }
    // A host may forbid what its kernel could do; a guest of ours forbids nothing.
    (!is_guest() && said.contains("os error 1)")).then(|| format!("forbidden on this host ({said})"))
}

/// Why nothing was attached: a test is skipped where that is not permitted or the kernel has no such way. That the verifier refuses a
/// program that it could know is our fault, and so is any other reason in a guest, which permits everything.
pub fn refused(said: &str) -> anyhow::Error {
    let is_lacking = |part: &str| kernel_lacks("", part).is_some();
    if said.split("; ").any(|part| part.contains("verifier:") && !is_lacking(part)) {
        anyhow!("the verifier refuses: {said}")
    } else if is_guest() && !said.split("; ").any(is_lacking) {
        anyhow!("refused where nothing is forbidden: {said}")
    } else {
        skip(said.trim_end())
    }
}

fn has_symbol(name: &str) -> bool {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols.lines().any(|line| line.split(' ').nth(2) == Some(name))
}
