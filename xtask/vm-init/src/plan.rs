//! The plan: what a guest has to do, one `key value` per line, in a file of its initramfs. Must not know how it is done.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};

/// Where the plan lies in the initramfs.
pub const PATH: &str = "/vm.plan";
/// Where modules lie in the initramfs.
pub const MODULES: &str = "/modules";

/// Everything that the first process of a guest has to know.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Device that takes the frames.
    pub results: String,
    /// Device of the console, for the shell.
    pub console: String,
    /// Whether the root of the host, read-only under a layer in memory, becomes the root of the guest.
    pub host_root: bool,
    /// Whether a person wants a shell instead of test results.
    pub shell: bool,
    /// Longest time for one test. Seconds.
    pub test_limit_s: u64,
    /// File names under [`MODULES`], in load order.
    pub modules: Vec<String>,
    /// Environment of every program.
    pub environment: Vec<(String, String)>,
    /// Test executables that speak libtest's command line: name and path.
    pub programs: Vec<(String, String)>,
    /// Filter and libtest arguments from the command line.
    pub arguments: Vec<String>,
}

impl Plan {
    /// The text of the file.
    pub fn to_text(&self) -> Result<String> {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| -> Result<()> {
            ensure!(!value.contains('\n'), "plan: {key} has a line break: {value:?}");
            writeln!(text, "{key} {value}").context("write the plan")
        };
        line("results", &self.results)?;
        line("console", &self.console)?;
        line("host_root", if self.host_root { "yes" } else { "no" })?;
        line("shell", if self.shell { "yes" } else { "no" })?;
        line("test_limit_s", &self.test_limit_s.to_string())?;
        for module in &self.modules {
            line("module", module)?;
        }
        for (key, value) in &self.environment {
            line("env", &format!("{key}={value}"))?;
        }
        for (name, path) in &self.programs {
            line("program", &format!("{name} {path}"))?;
        }
        for argument in &self.arguments {
            line("arg", argument)?;
        }
        Ok(text)
    }

    /// Reads the text of the file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut plan = Self::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').with_context(|| format!("plan: no value in {line:?}"))?;
            match key {
                "results" => plan.results = value.to_owned(),
                "console" => plan.console = value.to_owned(),
                "host_root" => plan.host_root = value == "yes",
                "shell" => plan.shell = value == "yes",
                "test_limit_s" => plan.test_limit_s = value.parse().context("plan: test_limit_s")?,
                "module" => plan.modules.push(value.to_owned()),
                "env" => plan.environment.push(pair(value, '=')?),
                "program" => plan.programs.push(pair(value, ' ')?),
                "arg" => plan.arguments.push(value.to_owned()),
                _ => bail!("plan: unknown key {key:?}"),
            }
        }
        Ok(plan)
    }
}

fn pair(value: &str, separator: char) -> Result<(String, String)> {
    let (left, right) =
        value.split_once(separator).with_context(|| format!("plan: no {separator:?} in {value:?}"))?;
    Ok((left.to_owned(), right.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn what_is_written_is_what_is_read() {
        let plan = Plan {
            results: "/dev/ttyS1".to_owned(),
            console: "/dev/ttyS0".to_owned(),
            host_root: true,
            shell: false,
            test_limit_s: 60,
            modules: vec!["inet_diag.ko".to_owned()],
            environment: vec![("A".to_owned(), "b=c d".to_owned())],
            programs: vec![("truth".to_owned(), "/bin/with space".to_owned())],
            arguments: vec!["--skip".to_owned(), "slow one".to_owned()],
        };
        assert_eq!(Plan::parse(&plan.to_text().unwrap()).unwrap(), plan);
    }

    #[test]
    fn a_line_break_in_a_value_and_an_unknown_key_are_errors() {
        let plan = Plan { arguments: vec!["a\nb".to_owned()], ..Plan::default() };
        assert!(plan.to_text().is_err());
        assert!(Plan::parse("colour red").is_err());
    }
}
