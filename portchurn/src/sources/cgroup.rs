//! From the path of a cgroup to systemd unit, container and pod. Pure; what is cut off or unknown is `None`, never a
//! guess: a wrong container name sends an operator to the wrong team.

/// Who a cgroup belongs to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CgroupIdentity {
    /// Innermost systemd unit, as `nginx.service`; not the scope that merely wraps a container.
    pub unit: Option<String>,
    /// Innermost container: its full id, or the name of an LXC container.
    pub container: Option<String>,
    /// Kubernetes' id of the pod.
    pub pod_uid: Option<String>,
}

/// Scopes and slices of container runtimes: `<prefix><64 hex>.scope`, with or without the ending.
const ID_PREFIXES: &[&str] = &["cri-containerd-", "docker-", "crio-", "libpod-", "nerdctl-"];

/// Below these a bare id is a container's: `/docker/<id>`, `/ecs/<task>/<id>`.
const ID_PARENTS: &[&str] = &["docker", "ecs"];

/// Kinds of unit that hold processes.
const UNIT_SUFFIXES: &[&str] = &[".service", ".scope", ".socket", ".mount", ".swap"];

/// Reads the path of a cgroup, as in `/proc/PID/cgroup` or below `/sys/fs/cgroup`.
pub fn identify(cgroup_path: &str) -> CgroupIdentity {
    let segments: Vec<&str> = cgroup_path.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut identity = CgroupIdentity::default();
    for (depth, segment) in segments.iter().enumerate() {
        let (outer, segment) = (&segments[..depth], unescape(segment));
        identity.pod_uid = pod_uid(&segment).or(identity.pod_uid);
        match container(outer, &segment) {
            Some(container) => identity.container = Some(container),
            None => identity.unit = unit(&segment).or(identity.unit),
        }
    }
    identity
}

/// The one line of `/proc/PID/cgroup` that tells most: Kubernetes' of a v1 controller, else the v2 tree, else
/// systemd's own v1 tree, else any v1 controller; the root of a tree tells nothing and is the last resort.
pub fn pick_cgroup(proc_cgroup_text: &str) -> Option<&str> {
    let path_of = |wanted: fn(&str, &str) -> bool| {
        proc_cgroup_text.lines().filter_map(split_line).find_map(|(number, controllers, path)| {
            (wanted(number, controllers) && path != "/").then_some(path)
        })
    };
    let has = |controllers: &str, name: &str| controllers.split(',').any(|controller| controller == name);
    let by_kubernetes = proc_cgroup_text.lines().filter_map(split_line).find_map(|(_, controllers, path)| {
        let is_v1 = has(controllers, "cpu") || has(controllers, "memory");
        (is_v1 && path.contains("kubepods")).then_some(path)
    });
    by_kubernetes
        .or_else(|| path_of(|number, controllers| number == "0" && controllers.is_empty()))
        .or_else(|| path_of(|_, controllers| controllers == "name=systemd"))
        .or_else(|| path_of(|_, controllers| controllers.split(',').any(|name| name == "cpu")))
        .or_else(|| path_of(|_, controllers| controllers.split(',').any(|name| name == "memory")))
        .or_else(|| proc_cgroup_text.lines().find_map(split_line).map(|(_, _, path)| path))
}

/// Hierarchy number, controllers, path (cgroups(7)). The path may hold colons.
fn split_line(line: &str) -> Option<(&str, &str, &str)> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let is_valid = number.parse::<u32>().is_ok() && path.starts_with('/');
    is_valid.then(|| (number, controllers, path.strip_suffix(" (deleted)").unwrap_or(path)))
}

/// Undoes systemd's escapes: `\x2d` for a byte, `_` before a name that would look like the kernel's own.
fn unescape(segment: &str) -> String {
    let segment = match segment.strip_prefix('_') {
        Some(rest) if rest.contains('.') => rest,
        _ => segment,
    };
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match escaped_byte(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| segment.to_owned())
}

fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let digits = bytes.get(..4)?.strip_prefix(b"\\x")?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok().filter(|&byte| byte != 0)
}

fn container(outer: &[&str], segment: &str) -> Option<String> {
    let stem = segment.strip_suffix(".scope").unwrap_or(segment);
    if let Some(id) = ID_PREFIXES.iter().find_map(|prefix| stem.strip_prefix(prefix)).filter(|id| is_id(id)) {
        return Some(id.to_owned());
    }
    // containerd told to use systemd's driver while its configuration is not: slice:runtime:id.
    if let Some((_, id)) = stem.split_once(":cri-containerd:").filter(|(_, id)| is_id(id)) {
        return Some(id.to_owned());
    }
    let holds_containers = |name: &&str| ID_PARENTS.contains(name) || pod_uid(&unescape(name)).is_some();
    if is_id(segment) && outer.iter().any(holds_containers) {
        return Some(segment.to_owned());
    }
    let by_name = segment.strip_prefix("lxc.payload.");
    let in_lxc = || (outer.last() == Some(&"lxc")).then_some(segment);
    by_name.or_else(in_lxc).filter(|name| !name.is_empty()).map(str::to_owned)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn unit(segment: &str) -> Option<String> {
    let is_unit = |suffix: &str| segment.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty());
    UNIT_SUFFIXES.iter().any(|suffix| is_unit(suffix)).then(|| segment.to_owned())
}

/// `pod<UID>`, or a slice that ends in it; slices cannot hold `-`, so systemd's driver writes `_`.
fn pod_uid(segment: &str) -> Option<String> {
    let slice = segment.split_once(".slice").map(|(stem, _)| stem);
    let uid = match slice {
        Some(stem) => stem.rsplit_once("-pod").filter(|(outer, _)| outer.contains("kubepods"))?.1,
        None => segment.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    is_pod_uid(&uid).then_some(uid)
}

/// A UUID, or the 32 digits of a static pod.
fn is_pod_uid(uid: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match uid.len() {
        32 => is_hex(uid),
        36 => uid.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && uid.split('-').all(is_hex),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{identify, pick_cgroup};

    const ID: &str = "4d5b0e8a0c8f4a33b6f1d2ce0a9e7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f00";
    const POD: &str = "1f2e3d4c-aaaa-bbbb-cccc-0123456789ab";
    const POD_: &str = "1f2e3d4c_aaaa_bbbb_cccc_0123456789ab";
    const STATIC_POD: &str = "0123456789abcdef0123456789abcdef";

    /// Path, unit, container, pod. `ID`, `POD`, `UID_` and `STATIC` stand for the constants above.
    const GOLDEN: &[(&str, &str, &str, &str)] = &[
        // containerd and CRI-O below systemd, every class of service
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope",
            "",
            "ID",
            "POD",
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/crio-ID.scope",
            "",
            "ID",
            "POD",
        ),
        ("/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope/container", "", "ID", "POD"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/cri-containerd-ID.scope",
            "",
            "ID",
            "STATIC",
        ),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/cri-containerd-ID.scope",
            "",
            "ID",
            "POD",
        ),
        // the monitor is not the container
        ("/kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope", "crio-conmon-ID.scope", "", "POD"),
        ("/machine.slice/libpod-conmon-ID.scope", "libpod-conmon-ID.scope", "", ""),
        // cgroupfs driver
        ("/kubepods/burstable/podPOD/ID", "", "ID", "POD"),
        ("/kubepods/podPOD/ID", "", "ID", "POD"),
        ("/kubepods/besteffort/podSTATIC/ID", "", "ID", "STATIC"),
        // mixed drivers
        (
            "/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
            "containerd.service",
            "ID",
            "POD",
        ),
        ("/kubepods-besteffort-podUID_.slice:cri-containerd:ID", "", "ID", "POD"),
        // Docker, Podman, nerdctl
        ("/docker/ID", "", "ID", ""),
        ("/docker/ID/system.slice/nginx.service", "nginx.service", "ID", ""),
        ("/system.slice/docker-ID.scope", "", "ID", ""),
        ("/system.slice/docker-ID.scope/init", "", "ID", ""),
        ("/machine.slice/libpod-ID.scope", "", "ID", ""),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "user@1000.service",
            "ID",
            "",
        ),
        ("/libpod_parent/libpod-ID", "", "ID", ""),
        ("/system.slice/nerdctl-ID.scope", "", "ID", ""),
        ("/ecs/0f1e2d3c/ID", "", "ID", ""),
        // LXC
        ("/lxc/web1", "", "web1", ""),
        ("/lxc/web1/system.slice/nginx.service", "nginx.service", "web1", ""),
        ("/lxc.payload.web1/system.slice/nginx.service", "nginx.service", "web1", ""),
        ("/lxc.monitor.web1", "", "", ""),
        // systemd
        ("/system.slice/nginx.service", "nginx.service", "", ""),
        ("/system.slice/nginx.service/worker", "nginx.service", "", ""),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", "", ""),
        (r"/system.slice/system-backup.slice/backup@var\x2dlib.service", "backup@var-lib.service", "", ""),
        (
            r"/user.slice/user-0.slice/user@0.service/app.slice/app-org.gnome\x2dTerminal.scope",
            "app-org.gnome-Terminal.scope",
            "",
            "",
        ),
        ("/system.slice/_cpu.service", "cpu.service", "", ""),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", "", ""),
        ("/user.slice/user-1000.slice", "", "", ""),
        ("/init.scope", "init.scope", "", ""),
        // seen from inside a cgroup namespace
        ("/../../system.slice/cron.service", "cron.service", "", ""),
        // nothing to tell
        ("/", "", "", ""),
        ("", "", "", ""),
        ("/process_api/1f77a83a23281892ddf48eef4852fbf5", "", "", ""),
        ("/ID", "", "", ""),
    ];

    /// Cut off or malformed: every part of the identity that is damaged must be missing.
    const DAMAGED: &[&str] = &[
        "/system.slice/docker-4d5b0e8a0c8f",
        "/docker/4d5b0e8a0c8f",
        "/kubepods/burstable/pod1f2e3d4c-aaaa",
        "/kubepods.slice/kubepods-pod1f2e3d4c_aaaa_bb.slice",
        "/kubepods/burstable/pod1f2e3d4c-aaaa-bbbb-cccc-0123456789zz/ID",
        "/system.slice/nginx.servic",
        "/system.slice/.service",
        "/lxc.payload.",
        "/lxc/",
        "/lxc",
        "/docker",
        r"/system.slice/x\x",
        r"/system.slice/x\xzz",
        r"/system.slice/x\x2",
        r"/system.slice/\xff",
    ];

    fn filled(pattern: &str) -> String {
        pattern.replace("STATIC", STATIC_POD).replace("POD", POD).replace("UID_", POD_).replace("ID", ID)
    }

    #[test]
    fn every_known_shape_is_read() {
        for (path, unit, container, pod) in GOLDEN {
            let seen = identify(&filled(path));
            let expected = |text: &str| (!text.is_empty()).then(|| filled(text));
            assert_eq!(seen.unit, expected(unit), "unit of {path}");
            assert_eq!(seen.container, expected(container), "container of {path}");
            assert_eq!(seen.pod_uid, expected(pod), "pod of {path}");
        }
    }

    #[test]
    fn what_is_damaged_is_unknown() {
        for path in DAMAGED {
            assert_eq!(identify(&filled(path)), super::CgroupIdentity::default(), "{path}");
        }
    }

    #[test]
    fn no_prefix_of_a_path_invents_an_identity() {
        for (path, ..) in GOLDEN {
            let path = filled(path);
            let whole = identify(&path);
            for end in 0..path.len() {
                let cut = identify(&path[..end]);
                assert!(cut.container.is_none() || cut.container == whole.container || path.contains("/lxc"));
                assert!(cut.pod_uid.is_none() || cut.pod_uid == whole.pod_uid, "{}", &path[..end]);
            }
        }
    }

    #[test]
    fn the_telling_line_is_picked() {
        for (text, path) in [
            ("0::/system.slice/nginx.service\n", Some("/system.slice/nginx.service")),
            ("0::/\n", Some("/")),
            ("0::/system.slice/gone.service (deleted)\n", Some("/system.slice/gone.service")),
            ("0::/a:b:c\n", Some("/a:b:c")),
            // hybrid: systemd's tree and the v2 tree agree; the controllers may not
            (
                "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n",
                Some("/system.slice/a.service"),
            ),
            // hybrid with nothing in the v2 tree
            ("4:memory:/docker/x\n1:name=systemd:/docker/x\n0::/\n", Some("/docker/x")),
            // v1, Kubernetes: the controllers know more than systemd
            (
                "9:memory:/kubepods/burstable/podX/Y\n1:name=systemd:/system.slice/containerd.service\n",
                Some("/kubepods/burstable/podX/Y"),
            ),
            ("5:cpuacct,cpu:/kubepods/podX/Y\n1:name=systemd:/\n", Some("/kubepods/podX/Y")),
            // v1 without systemd
            ("9:name=systemd:/\n4:memory:/batch/7\n1:cpu:/\n0::/\n", Some("/batch/7")),
            ("9:name=systemd:/\n1:cpu:/\n0::/\n", Some("/")),
            ("", None),
            ("nonsense", None),
            ("0:/no", None),
            ("x::/no", None),
            ("0::no", None),
        ] {
            assert_eq!(pick_cgroup(text), path, "{text:?}");
        }
    }
}
