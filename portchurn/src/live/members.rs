//! Which members of the kernel's structures the kernel side reads, and what becomes of it where one is missing. A new
//! member is a field of [`Offsets`] and one row here.

use anyhow::ensure;
use portchurn_common::settings::{Offsets, UNKNOWN};

use crate::live::btf::KernelTypes;

/// What becomes of the rest without a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Without {
    /// No socket can be read: all is as without types, and the classic tracepoint counts.
    Types,
    /// These go, too: the kernel side would read something else in its stead.
    These(&'static [&'static str]),
}

/// Nothing else is touched.
const IT: Without = Without::These(&[]);
/// The names of parents would be those of their children.
const PARENT: Without = Without::These(&["task_struct.real_parent"]);
const ARGUMENTS: Without = Without::These(&["mm_struct.arg_start", "mm_struct.arg_end"]);
const FILE: Without = Without::These(&["mm_struct.exe_file", "file.f_path.dentry", "dentry.d_name.name"]);
const CODE: Without = Without::These(&["mm_struct.start_code", "mm_struct.end_code"]);

/// One member.
struct Member {
    structure: &'static str,
    /// The first that there is: names change.
    paths: &'static [&'static str],
    without: Without,
    place: fn(&mut Offsets) -> &mut u32,
}

const fn member(
    structure: &'static str,
    paths: &'static [&'static str],
    without: Without,
    place: fn(&mut Offsets) -> &mut u32,
) -> Member {
    Member { structure, paths, without, place }
}

const MEMBERS: &[Member] = &[
    member("sock", &["__sk_common.skc_family"], Without::Types, |to| &mut to.skc_family),
    member("sock", &["__sk_common.skc_daddr"], Without::Types, |to| &mut to.skc_daddr),
    member("sock", &["__sk_common.skc_rcv_saddr"], Without::Types, |to| &mut to.skc_rcv_saddr),
    member("sock", &["__sk_common.skc_dport"], Without::Types, |to| &mut to.skc_dport),
    member("sock", &["__sk_common.skc_num"], Without::Types, |to| &mut to.skc_num),
    member("sock", &["__sk_common.skc_v6_daddr"], Without::Types, |to| &mut to.skc_v6_daddr),
    member("sock", &["__sk_common.skc_v6_rcv_saddr"], Without::Types, |to| &mut to.skc_v6_rcv_saddr),
    member("sock", &["__sk_common.skc_cookie"], Without::Types, |to| &mut to.skc_cookie),
    member("sock", &["sk_protocol"], Without::Types, |to| &mut to.sk_protocol),
    member("inet_sock", &["inet_sport"], Without::Types, |to| &mut to.inet_sport),
    member("sock", &["__sk_common.skc_net.net"], IT, |to| &mut to.skc_net),
    member("net", &["ns.inum"], IT, |to| &mut to.net_inum),
    member("sock", &["sk_err"], IT, |to| &mut to.sk_err),
    member("sock", &["sk_socket"], IT, |to| &mut to.sk_socket),
    member("tcp_sock", &["segs_out"], IT, |to| &mut to.segs_out),
    member("net", &[TIME_WAIT_REFERENCES, "ipv4.tcp_death_row.tw_count"], IT, |to| &mut to.net_time_wait),
    member("net", &["ipv4.tcp_death_row.sysctl_max_tw_buckets"], IT, |to| &mut to.net_time_wait_max),
    member("task_struct", &["group_leader"], PARENT, |to| &mut to.task_group_leader),
    member("task_struct", &["start_boottime", "real_start_time"], IT, |to| &mut to.task_start_boottime),
    member("task_struct", &["real_parent"], IT, |to| &mut to.task_real_parent),
    member("task_struct", &["flags"], IT, |to| &mut to.task_flags),
    member("task_struct", &["tgid"], IT, |to| &mut to.task_tgid),
    member("task_struct", &["comm"], PARENT, |to| &mut to.task_comm),
    member("task_struct", &["mm"], IT, |to| &mut to.task_mm),
    member("task_struct", &["signal"], IT, |to| &mut to.task_signal),
    member("signal_struct", &["live"], IT, |to| &mut to.signal_live),
    member("mm_struct", &["arg_start"], ARGUMENTS, |to| &mut to.mm_arg_start),
    member("mm_struct", &["arg_end"], ARGUMENTS, |to| &mut to.mm_arg_end),
    member("mm_struct", &["exe_file"], FILE, |to| &mut to.mm_exe_file),
    member("file", &["f_path.dentry"], FILE, |to| &mut to.file_dentry),
    member("dentry", &["d_name.name"], FILE, |to| &mut to.dentry_name),
    member("mm_struct", &["start_code"], CODE, |to| &mut to.mm_start_code),
    member("mm_struct", &["end_code"], CODE, |to| &mut to.mm_end_code),
    // x86-64 only.
    member("task_struct", &["thread.fsbase"], IT, |to| &mut to.task_thread_pointer),
];

/// Since 5.17 TIME_WAIT sockets are counted as references, of which the namespace holds one itself.
const TIME_WAIT_REFERENCES: &str = "ipv4.tcp_death_row.tw_refcount";

impl Without {
    /// Whether a member goes with the one that is missing.
    fn takes(self, other: &Member) -> bool {
        match self {
            Self::Types => true,
            Self::These(names) => names.contains(&other.name().as_str()),
        }
    }
}

impl Member {
    fn name(&self) -> String {
        format!("{}.{}", self.structure, self.paths[0])
    }
}

/// A name of the table.
///
/// # Errors
/// With those that there are.
pub fn known(name: &str) -> Result<String, String> {
    if MEMBERS.iter().any(|member| member.name() == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<_> = MEMBERS.iter().map(Member::name).collect();
    Err(format!("no member '{name}' is read (have: {})", names.join(", ")))
}

/// What this kernel has.
#[derive(Clone, Debug)]
pub struct Found {
    /// Every offset that the kernel side wants. What is missing is unknown, and so is what is of no use without it.
    pub offsets: Offsets,
    /// Names of the members that are missing.
    pub missing: Vec<String>,
}

impl Found {
    /// Where there are no types.
    pub const NOTHING: Self = Self { offsets: Offsets::UNKNOWN, missing: Vec::new() };
}

/// Looks for every member. `hidden`: those that are to be missing.
///
/// # Errors
/// When without a missing member no socket can be read.
pub fn find(types: &KernelTypes, hidden: &[String]) -> anyhow::Result<Found> {
    let mut offsets = Offsets::UNKNOWN;
    let mut missing = Vec::new();
    for member in MEMBERS {
        let is_hidden = hidden.iter().any(|name| *name == member.name());
        let mut found = member.paths.iter().filter_map(|path| types.offset(member.structure, path));
        match found.next().filter(|_| !is_hidden) {
            Some(offset) => *(member.place)(&mut offsets) = offset,
            None => missing.push(member),
        }
    }
    for member in &missing {
        log::debug!("this kernel's types lack {}: {:?}", member.name(), member.without);
        ensure!(member.without != Without::Types, "the kernel's types lack {}", member.name());
        for other in MEMBERS.iter().filter(|other| member.without.takes(other)) {
            *(other.place)(&mut offsets) = UNKNOWN;
        }
    }
    offsets.net_time_wait_none = u32::from(types.offset("net", TIME_WAIT_REFERENCES).is_some());
    offsets.accept_result_index = types.parameter_count("inet_csk_accept").unwrap_or(UNKNOWN);
    Ok(Found { offsets, missing: missing.into_iter().map(Member::name).collect() })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use portchurn_common::settings::UNKNOWN;

    use super::{MEMBERS, Without, find, known};
    use crate::live::btf::KernelTypes;
    use crate::live::hooks::HOOKS;

    #[test]
    fn every_member_has_a_place_of_its_own() {
        let mut all = portchurn_common::settings::Offsets::UNKNOWN;
        let mut places: Vec<_> = MEMBERS.iter().map(|member| (member.place)(&mut all) as *mut u32).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), MEMBERS.len());
    }

    #[test]
    fn without_one_member_goes_what_needs_it_and_nothing_else() {
        let Ok(types) = KernelTypes::of_running_kernel() else {
            let why = "SKIP without_one_member_goes_what_needs_it_and_nothing_else: this kernel has no BTF\n";
            let _ = std::io::stderr().write_all(why.as_bytes());
            return;
        };
        let mut whole = find(&types, &[]).unwrap().offsets;
        for hidden in MEMBERS {
            let found = find(&types, &[hidden.name()]);
            if hidden.without == Without::Types {
                assert!(found.unwrap_err().to_string().contains(&hidden.name()));
                continue;
            }
            let found = found.unwrap();
            assert!(found.missing.contains(&hidden.name()));
            let mut left = found.offsets;
            for other in MEMBERS {
                let goes = other.name() == hidden.name() || hidden.without.takes(other);
                let expected = if goes { UNKNOWN } else { *(other.place)(&mut whole) };
                assert_eq!(*(other.place)(&mut left), expected, "{} without {}", other.name(), hidden.name());
            }
        }
    }

    #[test]
    fn whatever_is_named_is_in_the_table() {
        let of_members = MEMBERS.iter().filter_map(|member| match member.without {
            Without::These(names) => Some(names),
            Without::Types => None,
        });
        let of_hooks = HOOKS.iter().map(|hook| hook.needs_members);
        for name in of_members.chain(of_hooks).flatten() {
            assert_eq!(known(name).as_deref(), Ok(*name));
        }
    }

    #[test]
    fn a_name_that_nobody_reads_is_refused_with_those_that_are() {
        let error = known("sock.nonsense").unwrap_err();
        assert!(error.starts_with("no member 'sock.nonsense'") && error.contains("sock.sk_err"), "{error}");
        assert_eq!(known("sock.sk_err").as_deref(), Ok("sock.sk_err"));
    }
}
