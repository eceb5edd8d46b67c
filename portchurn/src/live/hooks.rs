//! Every hook: what it is for, and in which ways it can be attached, best first. A new hook is one file in
//! `portchurn-ebpf/src/hooks/` and one row here.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A way to attach to a kernel function or tracepoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Tracepoint with types.
    TpBtf,
    /// Tracepoint with raw arguments.
    RawTp,
    /// Tracepoint with a formatted record.
    Tracepoint,
    /// Function entry, by trampoline.
    Fentry,
    /// Function return, by trampoline.
    Fexit,
    /// Function entry, by breakpoint or ftrace.
    Kprobe,
    /// Function return, by breakpoint or ftrace.
    Kretprobe,
}

impl Tier {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
        }
    }

    /// Whether the kernel must have type information (BTF).
    pub const fn needs_btf(self) -> bool {
        matches!(self, Self::TpBtf | Self::Fentry | Self::Fexit)
    }

    /// Whether one guard stands before all programs of this kind on a processor (`bpf_prog_active` in
    /// kernel/trace/bpf_trace.c): while one of them runs, every other is skipped. The other kinds have a guard for each
    /// program, and count at it for as long as they have had it.
    pub const fn shares_guard(self) -> bool {
        self.is_kprobe() || matches!(self, Self::Tracepoint)
    }

    /// Whether it is a kprobe, which may be left out before it comes to its program.
    pub const fn is_kprobe(self) -> bool {
        matches!(self, Self::Kprobe | Self::Kretprobe)
    }

    const ALL: [Self; 7] = [
        Self::TpBtf,
        Self::RawTp,
        Self::Tracepoint,
        Self::Fentry,
        Self::Fexit,
        Self::Kprobe,
        Self::Kretprobe,
    ];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One way to attach one hook.
#[derive(Debug)]
pub struct Attachment {
    /// How.
    pub tier: Tier,
    /// Program in the BPF object.
    pub program: &'static str,
    /// Further programs on the same hook, for what the first one misses because it is interrupted.
    pub again: &'static [&'static str],
}

impl Attachment {
    const fn new(tier: Tier, program: &'static str) -> Self {
        Self { tier, program, again: &[] }
    }
}

/// One hook.
#[derive(Debug)]
pub struct Hook {
    /// Kernel function or tracepoint.
    pub name: &'static str,
    /// Kernel function or tracepoint, where `name` is not it.
    pub target: Option<&'static str>,
    /// Category of the tracepoint, where it is one.
    pub category: Option<&'static str>,
    /// Without it nothing is counted.
    pub required: bool,
    /// What is lost without it.
    pub gives: &'static str,
    /// Whether it can do nothing where the kernel has no type information, however it is attached.
    pub needs_offsets: bool,
    /// Members of the kernel's structures without any of which it can do nothing.
    pub needs_members: &'static [&'static str],
    /// Best first.
    pub attachments: &'static [Attachment],
}

impl Hook {
    /// Kernel function or tracepoint.
    pub fn target(&self) -> &'static str {
        self.target.unwrap_or(self.name)
    }
}

/// Failed binds. The model knows it by this name, too.
pub const BINDS: &str = "inet_csk_get_port";
/// The lines of code: the hook that takes stacks.
pub const CALL_SITES: &str = "call_sites";
/// Children inherit what is known of their parent's interpreter.
pub const FORK: &str = "sched_process_fork";

/// Certainty that TIME_WAIT was entered. Where it is attached no close is judged without it.
pub const TIME_WAIT: &str = "tcp_time_wait";
/// The end of a process.
pub const EXIT: &str = "sched_process_exit";
/// The spine: every count comes from here.
pub const STATE_CHANGE: &str = "inet_sock_set_state";

/// Every hook. The first is [`STATE_CHANGE`].
pub const HOOKS: &[Hook] = &[
    Hook {
        name: STATE_CHANGE,
        target: None,
        category: Some("sock"),
        required: true,
        gives: "all counts: opens, accepts, closes, failures",
        needs_offsets: false,
        needs_members: &[],
        attachments: &[
            Attachment {
                tier: Tier::TpBtf,
                program: "inet_sock_set_state_btf",
                again: &["inet_sock_set_state_btf_again"],
            },
            Attachment {
                tier: Tier::RawTp,
                program: "inet_sock_set_state_raw",
                again: &["inet_sock_set_state_raw_again"],
            },
            Attachment::new(Tier::Tracepoint, "inet_sock_set_state_classic"),
        ],
    },
    Hook {
        name: TIME_WAIT,
        target: None,
        category: None,
        required: false,
        gives: "certainty that a close left a TIME_WAIT; without it the states only suggest it",
        needs_offsets: false,
        needs_members: &[],
        attachments: &[
            Attachment {
                tier: Tier::Fentry,
                program: "tcp_time_wait_entry",
                again: &["tcp_time_wait_entry_again"],
            },
            Attachment::new(Tier::Kprobe, "tcp_time_wait_probe"),
        ],
    },
    Hook {
        name: "inet_csk_accept",
        target: None,
        category: None,
        required: false,
        gives: "owner of an accepted connection from accept() on; without it the listener's owner until the close",
        needs_offsets: false,
        needs_members: &[],
        attachments: &[
            Attachment::new(Tier::Fexit, "inet_csk_accept_exit"),
            Attachment::new(Tier::Fexit, "inet_csk_accept_exit_plain"),
            Attachment::new(Tier::Kretprobe, "inet_csk_accept_return"),
            Attachment::new(Tier::Kretprobe, "inet_csk_accept_return_plain"),
        ],
    },
    Hook {
        name: BINDS,
        target: None,
        category: None,
        required: false,
        gives: "bind() to any port that finds none (EADDRINUSE)",
        needs_offsets: true,
        needs_members: &[],
        attachments: &[
            Attachment::new(Tier::Fexit, "inet_csk_get_port_exit"),
            Attachment {
                tier: Tier::Kretprobe,
                program: "inet_csk_get_port_return",
                again: &["inet_csk_get_port_entry"],
            },
        ],
    },
    Hook {
        name: "tcp_connect",
        target: None,
        category: None,
        required: false,
        gives: "local port of a connect that is still in progress",
        needs_offsets: true,
        needs_members: &[],
        attachments: &[
            Attachment::new(Tier::Fentry, "tcp_connect_entry"),
            Attachment::new(Tier::Kprobe, "tcp_connect_probe"),
        ],
    },
    Hook {
        name: "sched_process_exec",
        target: None,
        category: Some("sched"),
        required: false,
        gives: "new name and arguments of a process that replaces its image",
        needs_offsets: false,
        needs_members: &[],
        attachments: &[
            Attachment::new(Tier::TpBtf, "sched_process_exec_btf"),
            Attachment::new(Tier::RawTp, "sched_process_exec_raw"),
        ],
    },
    Hook {
        name: EXIT,
        target: None,
        category: Some("sched"),
        required: false,
        gives: "end of a process at once; without it /proc is asked",
        needs_offsets: true,
        needs_members: &["task_struct.signal", "signal_struct.live"],
        attachments: &[
            Attachment::new(Tier::TpBtf, "sched_process_exit_btf"),
            Attachment::new(Tier::RawTp, "sched_process_exit_raw"),
        ],
    },
    Hook {
        name: CALL_SITES,
        // After the spine, so that the kernel runs it after that one.
        target: Some(STATE_CHANGE),
        category: Some("sock"),
        required: false,
        gives: "the line of code behind each open and close; without bpf_loop (5.17) native code only",
        needs_offsets: true,
        needs_members: &[],
        attachments: &[
            Attachment::new(Tier::TpBtf, "call_sites"),
            Attachment::new(Tier::TpBtf, "call_sites_native"),
        ],
    },
    Hook {
        name: FORK,
        target: None,
        category: Some("sched"),
        required: false,
        gives: "the lines of code of forked workers from their first connect on",
        needs_offsets: true,
        needs_members: &["task_struct.tgid"],
        attachments: &[
            Attachment::new(Tier::TpBtf, "sched_process_fork_btf"),
            Attachment::new(Tier::RawTp, "sched_process_fork_raw"),
        ],
    },
];

/// `--attach HOOK=TIER`: one tier, or none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forced {
    /// Which hook.
    pub hook: &'static str,
    /// How; `None` leaves it out.
    pub tier: Option<Tier>,
}

impl FromStr for Forced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, tier) = text.split_once('=').ok_or("expected HOOK=TIER")?;
        let hook = HOOKS.iter().find(|hook| hook.name == name).ok_or_else(|| {
            format!("no hook '{name}' (have: {})", join(HOOKS.iter().map(|hook| hook.name)))
        })?;
        if tier == "none" {
            return Ok(Self { hook: hook.name, tier: None });
        }
        let tier = Tier::ALL
            .into_iter()
            .find(|known| known.name() == tier)
            .filter(|tier| hook.attachments.iter().any(|attachment| attachment.tier == *tier))
            .ok_or_else(|| {
                let mut tiers: Vec<_> = hook.attachments.iter().map(|one| one.tier.name()).collect();
                // Of one tier there may be a program for newer kernels and one for older.
                tiers.dedup();
                let tiers = join(tiers.into_iter());
                format!("{name} has no tier '{tier}' (have: {tiers}, none)")
            })?;
        Ok(Self { hook: hook.name, tier: Some(tier) })
    }
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{Forced, HOOKS, STATE_CHANGE, Tier};

    #[test]
    fn names_and_programs_are_unique_and_the_spine_is_first() {
        assert_eq!(HOOKS[0].name, STATE_CHANGE);
        let mut programs: Vec<_> = HOOKS.iter().flat_map(|h| h.attachments).map(|a| a.program).collect();
        let count = programs.len();
        programs.sort_unstable();
        programs.dedup();
        assert_eq!(programs.len(), count);
    }

    #[test]
    fn a_forced_tier_is_one_that_the_hook_has() {
        let forced: Forced = "inet_sock_set_state=raw_tp".parse().unwrap();
        assert_eq!(forced.tier, Some(Tier::RawTp));
        assert_eq!("tcp_connect=none".parse::<Forced>().unwrap().tier, None);
        assert!("tcp_connect=raw_tp".parse::<Forced>().unwrap_err().contains("fentry, kprobe, none"));
        assert!(
            "inet_csk_accept=no".parse::<Forced>().unwrap_err().contains("(have: fexit, kretprobe, none)")
        );
        assert!("tcp_connect".parse::<Forced>().is_err());
        assert!("nothing=kprobe".parse::<Forced>().is_err());
    }
}
