//! How much may be done for call sites: what is switched on, and how many copies of stacks may still be taken.

/// What the user side may change while the programs run: the one entry of `STACK_CONTROL`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StackControl {
    /// A [`Effort`] by number.
    pub effort: u32,
    /// Copies of user stacks per second and process.
    pub copies_per_s_process: u32,
    /// Copies of user stacks per second, all processes.
    pub copies_per_s_total: u32,
    /// Keeps the size a multiple of eight.
    pub zero: u32,
}

/// How much may be done for call sites.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum Effort {
    /// Nothing: past the budget. Counts go on.
    None = 0,
    /// Interpreter frames only.
    Interpreters = 1,
    /// Everything.
    Full = 2,
}

impl Effort {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Interpreters => "interpreters",
            Self::Full => "full",
        }
    }
}

/// Tokens of one process, or of all.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Budget {
    /// When tokens were last added. Nanoseconds, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Thousandths of a copy.
    pub tokens: u64,
}

/// Nanoseconds per second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

impl Budget {
    /// Takes one token, if there is one. `per_s` flow in, up to one second's worth.
    #[inline(always)]
    pub const fn take(&mut self, now_ns: u64, per_s: u32) -> bool {
        let full = per_s as u64 * 1000;
        let elapsed_ns = now_ns.saturating_sub(self.at_ns);
        let grown = if self.at_ns == 0 || elapsed_ns >= SECOND_NS {
            full
        } else {
            self.tokens + elapsed_ns * full / SECOND_NS
        };
        let tokens = if grown > full { full } else { grown };
        // Small gains would be rounded to nothing: time moves on only when something was added.
        if tokens > self.tokens || elapsed_ns >= SECOND_NS {
            self.at_ns = now_ns;
            self.tokens = tokens;
        }
        if self.tokens < 1000 {
            return false;
        }
        self.tokens -= 1000;
        true
    }
}
