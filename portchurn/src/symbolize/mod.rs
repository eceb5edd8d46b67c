//! Stacks as the kernel took them → frames with names. Three parts, each on a thread of its own: the front takes what
//! cannot wait (a process may be gone a moment later), the looker finds interpreters before their first connect, the namer
//! reads debug information, which may take long. Reads only, never stops or writes to a process.
//!
//! ```text
//! maps      what is mapped where in a process      elf      what a file tells of itself, once per file
//! held      the maps of a process and its files, open: all that must be done while it is there
//! modules   what these files tell: address → file and offset
//! look      whether a process runs an interpreter
//! python    CPython: is it one, where is its state, what do its code objects say
//! native    unwinding and naming compiled code    registers  where it begins
//! sections  what of a file unwinding reads        cfi        whether that comes to an end
//! packed    what of a file is given to the library that names
//! merge     interpreter frames in the place of the native frames that run them
//! codes     code objects that were sent    shared    equal stacks, kept once
//! namer     the thread
//! ```

pub mod cfi;
pub mod codes;
pub mod elf;
pub mod front;
pub mod held;
pub mod look;
pub mod maps;
pub mod merge;
pub mod modules;
pub mod namer;
pub mod native;
pub mod packed;
pub mod python;
pub mod record;
pub mod registers;
pub mod sections;
pub mod shared;

use portchurn_common::stack::Interpreter;

use crate::symbolize::elf::ElfFacts;
use crate::symbolize::modules::Modules;

/// What looking for an interpreter in a process came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Attach {
    /// This process runs none of this kind.
    Absent,
    /// It will, but is not complete yet.
    Later,
    /// It does, like this.
    Found(Box<Interpreter>),
    /// It does, but it cannot be walked: why.
    Refused(String),
}

/// A language whose frames the kernel side can walk.
pub trait Unwinder: Sync {
    /// Name of the language.
    fn name(&self) -> &'static str;

    /// Whether a file is, or loads, this interpreter.
    fn recognise(&self, file: &ElfFacts) -> bool;

    /// Where the interpreter's state lies in a process.
    fn attach(&self, modules: &Modules) -> Attach;
}

/// Letting go of memory, which is not for this layer to do.
pub trait Memory: Sync {
    /// After much was freed.
    fn give_back(&self);

    /// Of every file that is mapped to be read, after it was looked at. Only for who maps such files.
    fn give_back_files(&self);

    /// The same while something is done that takes long. It must not unmap what is mapped when it begins.
    fn giving_back_files(&self, work: &mut dyn FnMut());
}

/// Every language.
pub const UNWINDERS: &[&dyn Unwinder] = &[&python::Python];
