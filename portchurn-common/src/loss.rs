//! Every reason why the kernel side may fail to record something. Each has a counter, shown also when it
//! is zero. Numbers are never reused.

/// A reason, and the index of its counter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Loss {
    /// The key table was full: counted, but under "other" instead of process and destination.
    KeysFull = 0,
    /// The connection table was full: the connection could not be followed.
    ConnsFull = 1,
    /// The ring buffer was full: a process has numbers but no name.
    ProcessRecord = 2,
    /// The ring buffer was full: a `trace` line, or its call site, is missing; where sockets have no cookies, the owner of a
    /// TIME_WAIT. Counts are not touched.
    TraceRecord = 3,
    /// The listener table was full: accepted connections are attributed at their close only.
    ListenersFull = 4,
    /// An event arrived while the same processor was handling one; the kernel skips such nested runs.
    /// From `recursion_misses` of the programs; where two look at each event, the smaller of their two: at most so many.
    Nested = 5,
    /// The ring buffer was full: the end of a process was not noticed at once.
    ExitRecord = 6,
    /// The table of call sites was full: counted for the destination, but for no line of code.
    SitesFull = 7,
    /// The ring buffer of stacks was full: tried again at the next connection from the same place.
    StackRecord = 8,
    /// The ring buffer of stacks was full: a process replaced its image and was not looked at at once.
    ImageRecord = 9,
    /// A connection ended where no program saw it: it is open in the books, and in no list of the kernel any more. Counted by
    /// user space, for the destination too.
    CloseUnseen = 10,
}

impl Loss {
    /// How many reasons there are.
    pub const COUNT: usize = 11;
    /// Every reason, in the order of its number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::KeysFull,
        Self::ConnsFull,
        Self::ProcessRecord,
        Self::TraceRecord,
        Self::ListenersFull,
        Self::Nested,
        Self::ExitRecord,
        Self::SitesFull,
        Self::StackRecord,
        Self::ImageRecord,
        Self::CloseUnseen,
    ];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeysFull => "keys_full",
            Self::ConnsFull => "connections_full",
            Self::ProcessRecord => "process_record",
            Self::TraceRecord => "trace_record",
            Self::ListenersFull => "listeners_full",
            Self::Nested => "nested",
            Self::ExitRecord => "exit_record",
            Self::SitesFull => "call_sites_full",
            Self::StackRecord => "stack_record",
            Self::ImageRecord => "image_record",
            Self::CloseUnseen => "close_unseen",
        }
    }

    /// What it means and what to do, one sentence.
    pub const fn help(self) -> &'static str {
        match self {
            Self::KeysFull => "The key table was full: counted under \"other\"; raise --max-keys.",
            Self::ConnsFull => "The connection table was full: not followed; raise --max-connections.",
            Self::ProcessRecord => "The ring buffer was full: a process has numbers but no name.",
            Self::TraceRecord => {
                "The ring buffer was full: trace lines, or their call sites, are missing; counts are exact."
            }
            Self::ListenersFull => {
                "The listener table was full: owners of accepted connections come at their close; raise --max-keys."
            }
            Self::Nested => "The kernel skipped at most so many events that came in the middle of another.",
            Self::ExitRecord => "The ring buffer was full: an ended process was noticed late.",
            Self::SitesFull => "The table of call sites was full: counted, but for no line of code.",
            Self::StackRecord => "The ring buffer of stacks was full: tried again at the next connection.",
            Self::ImageRecord => "The ring buffer of stacks was full: a new program was looked at late.",
            Self::CloseUnseen => "The kernel ran no program at an end: found missing from its socket tables.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Loss;

    #[test]
    fn reasons_are_numbered_in_their_order_and_explained() {
        for (number, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, number);
            assert!(loss.help().ends_with('.'), "{}", loss.name());
        }
    }
}
