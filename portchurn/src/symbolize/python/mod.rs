//! CPython 3.7 and later: which file is one, where its state lies in a process, and what its code objects say.

mod described;
mod layout;
pub mod lines;

use crate::symbolize::elf::ElfFacts;
use crate::symbolize::modules::{Module, Modules};
use crate::symbolize::{Attach, Unwinder};

/// CPython.
pub struct Python;

impl Unwinder for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn recognise(&self, file: &ElfFacts) -> bool {
        file.python_runtime.is_some() || file.needs_python
    }

    fn attach(&self, modules: &Modules) -> Attach {
        let Some(module) = modules.list.iter().find(|module| module.facts.python_runtime.is_some()) else {
            // The program needs a library that is not mapped yet.
            let is_coming = modules.list.first().is_some_and(|program| self.recognise(&program.facts));
            return if is_coming { Attach::Later } else { Attach::Absent };
        };
        let libc = modules.list.iter().find_map(|module| module.facts.thread_data_offset);
        let has_libc = libc.is_some() || modules.list.iter().any(is_libc);
        if !has_libc && module.facts.needs_libraries {
            return Attach::Later;
        }
        match layout::interpreter(modules.tgid, module, libc) {
            Ok(interpreter) => Attach::Found(Box::new(interpreter)),
            Err(reason) => Attach::Refused(reason),
        }
    }
}

fn is_libc(module: &Module) -> bool {
    ["libc.", "libc-", "ld-musl"].iter().any(|start| module.name().starts_with(start))
}

/// Major and minor version, as 0x30b for 3.11: from what the file says, else from its name.
fn version(module: &Module) -> Option<u32> {
    if let Some(version) = module.facts.python_version {
        return Some(version >> 16);
    }
    let (_, rest) = module.name().split_once("python3.")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(0x300 + digits.parse::<u32>().ok().filter(|minor| *minor < 256)?)
}
