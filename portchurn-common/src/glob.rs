//! `-c GLOB`: `*` any run, `?` one byte, all else itself. Matched in the kernel against `comm`, so it is made into bit
//! masks first: bit `i` of a set of states says that the first `i` parts of the pattern may have been matched. A step
//! has no branch that depends on the text, which keeps the verifier's work linear.

/// Longest pattern. Bytes.
pub const PATTERN_LEN: usize = 31;
/// `TASK_COMM_LEN` of include/linux/sched.h.
pub const COMM_LEN: usize = 16;

/// A pattern as masks. The table of [`Glob::accept`] lies in a map.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct GlobMasks {
    /// Bit `i`: part `i` is a star.
    pub star: u32,
    /// The bit of the state in which all parts are matched.
    pub end: u32,
}

impl GlobMasks {
    /// Whether `comm`, up to its first zero byte, matches. `accept` tells which parts a byte matches.
    #[inline(always)]
    pub fn matches(self, comm: &[u8; COMM_LEN], accept: impl Fn(u8) -> u32) -> bool {
        let mut states = self.skip_star(1);
        let mut index = 0;
        while index < COMM_LEN {
            let byte = comm[index];
            if byte == 0 {
                break;
            }
            states = self.skip_star((states & accept(byte)) << 1 | states & self.star);
            index += 1;
        }
        states & self.end != 0
    }

    /// A star may match nothing. No two stars follow each other, so one step is enough.
    #[inline(always)]
    fn skip_star(self, states: u32) -> u32 {
        states | (states & self.star) << 1
    }
}

/// A pattern, ready to be matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Glob {
    /// Its masks.
    pub masks: GlobMasks,
    /// For each byte, the parts that match it.
    pub accept: [u32; 256],
}

impl Glob {
    /// From its text; `None` if that is empty or too long.
    pub fn new(pattern: &str) -> Option<Self> {
        let mut parts = [0; PATTERN_LEN];
        let mut len = 0;
        for byte in pattern.bytes() {
            if byte == b'*' && len > 0 && parts[len - 1] == b'*' {
                continue;
            }
            *parts.get_mut(len)? = byte;
            len += 1;
        }
        if len == 0 {
            return None;
        }
        let mut glob = Self { masks: GlobMasks { star: 0, end: 1 << len }, accept: [0; 256] };
        for (index, &part) in parts[..len].iter().enumerate() {
            match part {
                b'*' => glob.masks.star |= 1 << index,
                b'?' => glob.accept.iter_mut().for_each(|parts| *parts |= 1 << index),
                _ => glob.accept[usize::from(part)] |= 1 << index,
            }
        }
        Some(glob)
    }

    /// Whether `comm`, up to its first zero byte, matches.
    pub fn matches(&self, comm: &[u8; COMM_LEN]) -> bool {
        self.masks.matches(comm, |byte| self.accept[usize::from(byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::{COMM_LEN, Glob, PATTERN_LEN};

    fn check(pattern: &str, text: &str) -> bool {
        let mut comm = [0; COMM_LEN];
        comm[..text.len()].copy_from_slice(text.as_bytes());
        Glob::new(pattern).unwrap().matches(&comm)
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, comm, expected) in [
            ("nginx", "nginx", true),
            ("nginx", "nginx2", false),
            ("nginx2", "nginx", false),
            ("py*", "python3", true),
            ("*3", "python3", true),
            ("*th*3", "python3", true),
            ("*x*3", "python3", false),
            ("p?thon?", "python3", true),
            ("?", "", false),
            ("*", "", true),
            ("**", "a", true),
            ("*a*b", "aabab", true),
            ("a*", "ba", false),
            ("*", "fifteen-letters", true),
            ("fifteen-letters", "fifteen-letters", true),
            ("*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaa", false),
            ("*a*a*a*a*a*a*a*a", "aaaaaaaaaaaaaaaa", true),
        ] {
            assert_eq!(check(pattern, comm), expected, "{pattern} against {comm}");
        }
    }

    #[test]
    fn what_cannot_be_matched_is_refused() {
        assert_eq!(Glob::new(""), None);
        assert_eq!(Glob::new(&"x".repeat(PATTERN_LEN + 1)), None);
        assert!(Glob::new(&"*".repeat(100)).is_some(), "many stars are one");
    }
}
