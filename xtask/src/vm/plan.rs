//! From a kernel, a payload and the command line to a guest that can be started. Must not start it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use vm_init::plan::Plan;

use super::Args;
use super::image::Image;
use super::initramfs::{self, Program};
use super::layout::{Layout, label};
use super::payload::Payload;
use super::qemu::{Accelerator, Console, Spec, ports};
use super::share::{self, Share};

/// The test program after which nothing can be traced any more.
const LAST: &str = "locked_down";

/// The guests of one kernel.
pub(crate) struct Guests<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) args: &'a Args,
    pub(crate) image: Image,
    pub(crate) payload: &'a Payload,
    pub(crate) accelerator: Accelerator,
}

/// A guest that can be started, with the daemon that it needs for as long as it runs.
pub(crate) struct Prepared {
    pub(crate) spec: Spec,
    _share: Option<Share>,
}

impl Drop for Prepared {
    /// What a person may want to read stays: console and results.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.spec.initramfs);
    }
}

impl Guests<'_> {
    pub(crate) fn label(&self) -> String {
        label(self.image.line, self.image.arch)
    }

    /// What the command line asks for.
    pub(crate) fn plan(&self) -> Plan {
        let ports = ports(self.image.arch);
        let host_root = self.args.has_host_root();
        let tools = self.payload.tools.iter();
        let environment = tools.map(|(key, program)| ((*key).to_owned(), program.guest_path(host_root)));
        let kernel = [("PORTCHURN_VM".to_owned(), self.label())];
        let is_wanted = |test: &&Program| self.args.selftest || self.args.wants(&test.name, self.image.line);
        let tests = self.payload.tests.iter().filter(is_wanted);
        let mut programs: Vec<_> =
            tests.map(|test| (test.name.clone(), test.guest_path(host_root))).collect();
        programs.sort_by_key(|(name, _)| name == LAST);
        Plan {
            results: ports.results.to_owned(),
            console: ports.console.to_owned(),
            host_root,
            shell: self.args.shell,
            test_limit_s: self.args.test_timeout_s,
            modules: Vec::new(),
            environment: environment.chain(kernel).collect(),
            programs,
            arguments: self.args.arguments.clone(),
        }
    }

    /// Writes its first root and starts its daemon.
    pub(crate) fn prepare(&self, stem: &str, plan: Plan) -> Result<Prepared> {
        let file = |suffix: &str| -> PathBuf { self.layout.logs.join(format!("{stem}.{suffix}")) };
        let initramfs = file("cpio");
        let share = plan.host_root.then(|| share::start(&self.layout.logs, stem)).transpose()?;
        let console = if plan.shell { Console::Terminal } else { Console::Log(file("log")) };
        let programs: Vec<_> = self.payload.programs().collect();
        initramfs::write(&initramfs, &self.image, &self.payload.init, &programs, plan)
            .with_context(|| format!("make the first root of kernel {}", self.image.release))?;
        let spec = Spec {
            image: self.image.clone(),
            initramfs,
            processors: self.args.cpus,
            memory: self.args.memory().to_owned(),
            accelerator: self.accelerator,
            console,
            results: file("results"),
            share: share.as_ref().map(|share| share.socket.clone()),
        };
        Ok(Prepared { spec, _share: share })
    }
}
