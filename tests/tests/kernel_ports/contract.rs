//! The JSON that scripts rely on, key by key, of a real run: what section 6 of the design lists and docs/json.md explains.
//! What each number is, other tests hold to the truth.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use portchurn_tests::harness::lacks::refused;
use portchurn_tests::harness::programs::{bound_to, portchurn};
use portchurn_tests::harness::veth::Cable;
use portchurn_tests::harness::{Alone, check, skip};
use serde_json::Value;

/// What a value may be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Integer,
    Number,
    Text,
    Flag,
    List,
    Object,
    /// The same or `null`: not known.
    Maybe(&'static Self),
}

use Kind::{Flag, Integer, List, Maybe, Number, Object, Text};

use crate::ADDRESS;

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Integer => value.is_u64(),
            Number => value.is_number(),
            Text => value.is_string(),
            Flag => value.is_boolean(),
            List => value.is_array(),
            Object => value.is_object(),
            Maybe(kind) => value.is_null() || kind.fits(value),
        }
    }
}

const TEXT: Kind = Maybe(&Text);
const NUMBER: Kind = Maybe(&Number);
const INTEGER: Kind = Maybe(&Integer);

/// Keys of one level. `[]` goes through a list.
type Level = (&'static [&'static str], &'static [(&'static str, Kind)]);

const COUNTERS: &[(&str, Kind)] = &[
    ("opened", Integer),
    ("accepted", Integer),
    ("closed", Integer),
    ("failed", Integer),
    ("open_now", Integer),
    ("opened_per_s", Number),
];
const QUANTILES: &[(&str, Kind)] = &[("p50", Integer), ("p95", Integer), ("p99", Integer), ("max", Integer)];

/// Every level, by the places where it stands.
const LEVELS: &[Level] = &[
    (
        &[""],
        &[
            ("schema_version", Integer),
            ("kernel", Text),
            ("window_s", Number),
            ("cumulative_s", Number),
            ("hooks", List),
            ("totals", Object),
            ("programs", List),
            ("processes", List),
            ("time_wait", Object),
            ("ports", List),
            ("lost", Object),
            ("own_cost", Object),
        ],
    ),
    (&["hooks[]"], &[("name", Text), ("attached", Text), ("required", Flag), ("reason", TEXT)]),
    (
        &["totals", "programs[]", "processes[]", "programs[].destinations[]", "processes[].destinations[]"],
        COUNTERS,
    ),
    (
        &["programs[]"],
        &[
            ("program", Text),
            ("exe", TEXT),
            ("script", TEXT),
            ("unit", TEXT),
            ("container", TEXT),
            ("parent_program", TEXT),
            ("process_count", Integer),
            ("exited_count", Integer),
            ("destinations", List),
        ],
    ),
    (
        &["processes[]"],
        &[
            ("tgid", Integer),
            ("start_ns", Integer),
            ("comm", Text),
            ("exe", TEXT),
            ("argv", List),
            ("ppid", INTEGER),
            ("parent_comm", TEXT),
            ("cgroup", TEXT),
            ("unit", TEXT),
            ("container", TEXT),
            ("exited", Flag),
            ("destinations", List),
        ],
    ),
    (
        &["programs[].destinations[]", "processes[].destinations[]"],
        &[
            ("role", Text),
            ("netns", Integer),
            ("remote_address", TEXT),
            ("remote_port", INTEGER),
            ("local_port", INTEGER),
            ("closed_by", Object),
            ("time_wait_entered", Integer),
            ("port_pressure_ratio", NUMBER),
            ("failed_by", Object),
            ("lifetime_us", Maybe(&Object)),
            ("connect_us", Maybe(&Object)),
            ("connect_histogram_us", List),
            ("call_sites", List),
        ],
    ),
    (
        &["programs[].destinations[].closed_by", "processes[].destinations[].closed_by"],
        &[
            ("local", Integer),
            ("remote", Integer),
            ("simultaneous", Integer),
            ("reset", Integer),
            ("process_exit", Integer),
        ],
    ),
    (
        &[
            "programs[].destinations[].lifetime_us",
            "programs[].destinations[].connect_us",
            "processes[].destinations[].lifetime_us",
            "processes[].destinations[].connect_us",
        ],
        QUANTILES,
    ),
    (
        &[
            "programs[].destinations[].connect_histogram_us[]",
            "processes[].destinations[].connect_histogram_us[]",
        ],
        &[("le", Integer), ("count", Integer)],
    ),
    (
        &[
            "programs[].destinations[].call_sites[]",
            "processes[].destinations[].call_sites[]",
            "time_wait.owners[].destinations[].call_sites[]",
            "exhaustion[].failed[].call_sites[]",
        ],
        &[
            ("at", Text),
            ("count", Integer),
            ("share", Number),
            ("exact", Flag),
            ("language", TEXT),
            ("culprit", Maybe(&Object)),
            ("note", TEXT),
            ("frames", List),
        ],
    ),
    (
        &["programs[].destinations[].call_sites[].culprit"],
        &[("function", Text), ("file", TEXT), ("line", INTEGER)],
    ),
    (
        &["programs[].destinations[].call_sites[].frames[]"],
        &[("function", Text), ("file", TEXT), ("line", INTEGER), ("module", TEXT), ("language", Text)],
    ),
    (
        &["time_wait"],
        &[
            ("total", Integer),
            ("owned", Integer),
            ("before_attach", Integer),
            ("unowned", Integer),
            ("coverage_ratio", NUMBER),
            ("owners", List),
        ],
    ),
    (
        &["time_wait.owners[]"],
        &[("tgid", INTEGER), ("program", TEXT), ("count", Integer), ("destinations", List)],
    ),
    (
        &["ports[]"],
        &[
            ("netns", Integer),
            ("source_address", TEXT),
            ("remote_address", TEXT),
            ("remote_port", INTEGER),
            ("limit", INTEGER),
            ("used", Integer),
            ("time_wait", Integer),
            ("established", Integer),
            ("other", Integer),
            ("pressure_ratio", NUMBER),
            ("alarm", Flag),
            ("opened_per_s", NUMBER),
            ("reuse", Flag),
            ("seconds_to_wall", NUMBER),
            ("seconds_to_exhaustion", NUMBER),
        ],
    ),
    (&["lost"], &[("total", Integer), ("by_reason", Object)]),
    (
        &["own_cost"],
        &[
            ("cpu_ratio", NUMBER),
            ("rss_bytes", INTEGER),
            ("map_bytes", INTEGER),
            ("bpf_ns_per_event", NUMBER),
            ("bpf_cpu_ratio", NUMBER),
        ],
    ),
];

/// Texts that are one of a few.
const WORDS: &[(&str, &[&str])] = &[
    (
        "hooks[].attached",
        &["tp_btf", "raw_tp", "tracepoint", "fentry", "fexit", "kprobe", "kretprobe", "none"],
    ),
    ("programs[].destinations[].role", &["connect", "accept"]),
    ("programs[].destinations[].call_sites[].at", &["open", "close", "no_port"]),
];

/// Every value at a path. What is `null` on the way leads nowhere.
fn at<'a>(document: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![document];
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, is_list) = part.strip_suffix("[]").map_or((part, false), |key| (key, true));
        let inside = found.into_iter().filter_map(|value| value.get(key)).filter(|value| !value.is_null());
        found =
            if is_list { inside.filter_map(Value::as_array).flatten().collect() } else { inside.collect() };
    }
    found
}

fn every_key(document: &Value) -> Result<()> {
    for (places, keys) in LEVELS {
        for place in *places {
            let here = at(document, place);
            ensure!(!here.is_empty(), "there is nothing at `{place}`");
            for (value, (key, kind)) in here.iter().flat_map(|value| keys.iter().map(move |key| (value, key)))
            {
                let found =
                    value.get(key).with_context(|| format!("`{key}` is missing in `{place}`: {value}"))?;
                ensure!(kind.fits(found), "`{place}.{key}` is {found}, should be {kind:?}");
            }
        }
    }
    for (path, words) in WORDS {
        let wrong =
            at(document, path).into_iter().find(|word| !word.as_str().is_some_and(|w| words.contains(&w)));
        ensure!(wrong.is_none(), "{path}: {wrong:?} is none of {words:?}");
    }
    Ok(())
}

/// Starts one that says what it saw after so many seconds, and waits until it is attached.
fn once(seconds: &str) -> Result<Child> {
    let mut command = Command::new(portchurn()?);
    command.args(["top", "--once", "--interval", seconds, "-o", "json", "--stack", "auto", "-D", "7000"]);
    command.args(["-L", "7000", "-q"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    bound_to(&mut command, 180);
    let mut child = command.spawn().context("start portchurn")?;
    let counter = format!("/run/portchurn/{}.sock", child.id());
    while UnixStream::connect(&counter).is_err() {
        if child.try_wait()?.is_some() {
            let output = child.wait_with_output()?;
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            match output.status.code() {
                Some(4 | 5) => return Err(refused(&complaint)),
                _ => bail!("portchurn ended: {complaint}"),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

#[test]
fn every_key_of_the_contract_is_in_a_real_document() {
    check("every_key_of_the_contract_is_in_a_real_document", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40029", "tcp_tw_reuse=0"])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut wrong = Ok(());
        // The slower the machine, the longer it takes until all is there.
        for (seconds, first) in [("3s", "11"), ("12s", "5"), ("40s", "3")] {
            let mut script = cable.script(
                &cable.client,
                "ports.py",
                &["10.77.0.2", "7000", first, "40"],
                &[("STAY", "1")],
            )?;
            let portchurn = once(seconds)?;
            script.go()?;
            let output = portchurn.wait_with_output().context("read the document")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let document: Value =
                serde_json::from_slice(&output.stdout).context("understand the document")?;
            let hooks = at(&document, "hooks[]");
            let is_refused = |hook: &&&Value| hook["name"] == "call_sites" && hook["attached"] == "none";
            if let Some(hook) = hooks.iter().find(is_refused) {
                return Err(skip(hook["reason"].as_str().unwrap_or_default()));
            }
            wrong = every_key(&document);
            if wrong.is_ok() {
                break;
            }
        }
        wrong
    });
}
