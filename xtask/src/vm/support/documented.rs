//! Whether a kernel showed what `portchurn check` says of it. Must not change either.

use super::{AUTOMATIC, Kernel, page};

/// What differs between the table and what was shown; `None` if the table does not have this kernel.
pub(super) fn differences(table: &str, kernel: &Kernel) -> Option<Vec<String>> {
    let mut lines = table.lines().map(cells);
    let name = kernel.name();
    let column = lines.next()?.iter().position(|column| *column == name)?;
    let differs = |line: Vec<&str>| {
        let (hook, said) = (*line.first()?, *line.get(column + 1)?);
        kernel.outcome(hook, AUTOMATIC)?;
        let (shown, _) = page::chosen(kernel, hook);
        (shown != said).then(|| format!("{hook}: {shown}, where `portchurn check` says {said}"))
    };
    Some(lines.filter_map(differs).collect())
}

/// Names of kernels may have a space, columns are two apart.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::page::plain;
    use super::super::parse;
    use super::differences;

    #[test]
    fn what_differs_is_named_with_both() {
        let shown = |arch: &str, tier: &str| {
            parse(&format!(
                "6.1.0-1 {arch} 1\ntcp_connect automatic works {tier}\ntcp_connect kprobe works\n"
            ))
            .unwrap()
        };
        let table = plain(&[shown("x86_64", "fentry"), shown("aarch64", "kprobe")]);
        assert_eq!(differences(&table, &shown("x86_64", "fentry")), Some(vec![]));
        assert_eq!(differences(&table, &shown("aarch64", "kprobe")), Some(vec![]));
        let different = differences(&table, &shown("x86_64", "kprobe; fentry: refused")).unwrap();
        assert_eq!(different, ["tcp_connect: kprobe, where `portchurn check` says fentry"]);
        assert_eq!(differences(&table, &parse("6.12.1 x86_64 1\n").unwrap()), None);
    }
}
