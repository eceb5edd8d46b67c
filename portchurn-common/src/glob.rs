//! `-c GLOB`: `*` any run, `?` one byte, all else itself. Matched in the kernel against `comm`, hence the fixed sizes
//! and the bounded loop.

/// Longest pattern. Bytes, unused ones zero.
pub const PATTERN_LEN: usize = 32;
/// `TASK_COMM_LEN` of include/linux/sched.h.
pub const COMM_LEN: usize = 16;

/// Whether `comm` (up to its first zero byte) matches `pattern` (up to its first zero byte).
#[inline(always)]
pub fn matches(pattern: &[u8; PATTERN_LEN], comm: &[u8; COMM_LEN]) -> bool {
    // Greedy with one backtracking point: the last star. Each step consumes a byte of either side or moves
    // that point one byte on, which bounds the steps.
    let (mut p, mut c) = (0usize, 0usize);
    let (mut star, mut resume) = (usize::MAX, 0usize);
    let mut steps = 0;
    while steps < PATTERN_LEN * COMM_LEN {
        steps += 1;
        let want = if p < PATTERN_LEN { pattern[p & (PATTERN_LEN - 1)] } else { 0 };
        let have = if c < COMM_LEN { comm[c & (COMM_LEN - 1)] } else { 0 };
        if want == b'*' {
            star = p;
            resume = c;
            p += 1;
        } else if have == 0 {
            return want == 0;
        } else if want == have || want == b'?' {
            p += 1;
            c += 1;
        } else if star != usize::MAX {
            resume += 1;
            c = resume;
            p = star + 1;
        } else {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{COMM_LEN, PATTERN_LEN, matches};

    fn check(pattern: &str, comm: &str) -> bool {
        let (mut p, mut c) = ([0; PATTERN_LEN], [0; COMM_LEN]);
        p[..pattern.len()].copy_from_slice(pattern.as_bytes());
        c[..comm.len()].copy_from_slice(comm.as_bytes());
        matches(&p, &c)
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
            ("*", "fifteen-letters", true),
            ("fifteen-letters", "fifteen-letters", true),
            ("", "a", false),
        ] {
            assert_eq!(check(pattern, comm), expected, "{pattern} against {comm}");
        }
    }

    #[test]
    fn the_worst_pattern_ends() {
        assert!(!check("*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaa"));
    }
}
