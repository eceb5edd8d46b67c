//! `portchurn check`: what this kernel and these privileges allow, found out by asking and by trying.

use std::io::Write as _;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::commands::options::{SelectArgs, TracerArgs, loader_options};
use crate::live::error::LoadError;
use crate::live::loader;
use crate::live::preflight::{Check, Status, checks};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As text or as one JSON document
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    tracer: TracerArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// One line for each requirement
    #[default]
    Table,
    /// One document
    Json,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    kernel: String,
    status: Status,
    checks: Vec<Check>,
    hooks: Vec<Hook>,
}

#[derive(Serialize)]
struct Hook {
    name: &'static str,
    attached: &'static str,
    required: bool,
    reason: Option<String>,
    lost: Option<&'static str>,
    remedy: Option<&'static str>,
    skips_counted: Option<bool>,
}

/// What helps where a hook is not attached though everything above is there.
const REMEDY: &str = "what is not ok above; if all is, only another kernel grants it: see the table";

/// How each hook is attached on kernels that were tried. Written by `cargo xtask vm --table`.
const TESTED: &str = include_str!("tested_kernels.txt");

/// What is said of a hook whose misses nobody counts.
const UNCOUNTED: &str = "this kernel skips the hook while another program of its kind runs on the processor, and does \
    not count that: `lost` cannot show it";

/// Prints what was found; 4 or 5 when nothing can be traced.
pub fn run(args: &Args) -> Result<u8> {
    let select = SelectArgs {
        pids: Vec::new(),
        comm: None,
        dports: Vec::new(),
        lports: Vec::new(),
        ipv4: false,
        ipv6: false,
        netns: None,
    };
    let attempt = loader::load(&loader_options(&select, &args.tracer, false)?);
    let code = match &attempt {
        Ok(_) => 0,
        Err(err) => match err.downcast_ref::<LoadError>() {
            Some(refused) => refused.status(),
            None => 5,
        },
    };
    let report = report(&attempt);
    drop(attempt);
    let text = match args.output {
        Format::Table => table(&report),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(code)
}

fn report(attempt: &Result<loader::Loaded>) -> Report {
    let checks = checks();
    let hooks: Vec<_> = match attempt {
        Ok(loaded) => loaded
            .hooks
            .iter()
            .map(|attached| Hook {
                name: attached.hook.name,
                attached: attached.tier().map_or("none", |tier| tier.name()),
                required: attached.hook.required,
                reason: attached.reason.clone(),
                lost: attached.attachment.is_none().then_some(attached.hook.gives),
                remedy: attached.attachment.is_none().then_some(REMEDY),
                skips_counted: attached.skips_counted(),
            })
            .collect(),
        Err(err) => vec![Hook {
            name: crate::live::hooks::STATE_CHANGE,
            attached: "none",
            required: true,
            reason: Some(format!("{err:#}")),
            lost: Some("everything: nothing can be counted"),
            remedy: Some(REMEDY),
            skips_counted: None,
        }],
    };
    let status = match attempt {
        Err(_) => Status::Missing,
        Ok(_) if hooks.iter().any(|hook| hook.attached == "none") => Status::Degraded,
        Ok(_) if checks.iter().any(|check| check.status != Status::Ok) => Status::Degraded,
        Ok(_) => Status::Ok,
    };
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Report { schema_version: 1, kernel, status, checks, hooks }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Degraded => "degraded",
        Status::Missing => "missing",
    }
}

fn table(report: &Report) -> String {
    // This kernel comes last: on a terminal that is what stays on the screen.
    let mut text = format!("other kernels, as tests in virtual machines showed them:\n\n{TESTED}\n");
    text += &format!("kernel {}: {}\n\n", report.kernel, verdict(report.status));
    for check in &report.checks {
        text += &format!("{:<9} {:<24} {}\n", word(check.status), check.name, check.found);
        text += &details(check.lost, check.remedy.as_deref().map(|remedy| ("try", remedy)));
    }
    text += "\n";
    for hook in &report.hooks {
        let status = if hook.attached == "none" {
            if hook.required { Status::Missing } else { Status::Degraded }
        } else {
            Status::Ok
        };
        text += &format!("{:<9} {:<24} {}\n", word(status), hook.name, hook.attached);
        text += &details(hook.lost, hook.reason.as_deref().map(|reason| ("why", reason)));
        text += &details(None, hook.remedy.map(|remedy| ("try", remedy)));
        if hook.skips_counted == Some(false) {
            text += &details(None, Some(("note", UNCOUNTED)));
        }
    }
    text
}

fn verdict(status: Status) -> &'static str {
    match status {
        Status::Ok => "everything works",
        Status::Degraded => "portchurn works; what is missing is named below",
        Status::Missing => "portchurn cannot trace here",
    }
}

fn details(lost: Option<&str>, note: Option<(&str, &str)>) -> String {
    let mut text = String::new();
    if let Some(lost) = lost {
        text += &format!("{:<10}lost: {lost}\n", "");
    }
    if let Some((word, note)) = note {
        text += &format!("{:<10}{word}:  {note}\n", "");
    }
    text
}
