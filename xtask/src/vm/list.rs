//! `--list`: the kernel lines, where they come from, what is cached, what is missing. Must not fetch.

use super::image;
use super::kernel::{Arch, LINES, Package};
use super::layout::Layout;
use super::table::columns;
use super::{say, setup};

/// Says it.
pub(crate) fn show(layout: &Layout) {
    let mut rows =
        vec![["kernel", "from", "package", "cached x86_64", "cached aarch64"].map(str::to_owned).to_vec()];
    for line in LINES {
        let package = match line.package {
            Package::Meta(name) => name.to_owned(),
            Package::Newest(start, end) => format!("{start}*{end}, the newest"),
        };
        let cached = |arch: Arch| {
            let newest = image::cached(&layout.vm, line, arch).into_iter().next();
            newest.map_or_else(|| "-".to_owned(), |image| image.release)
        };
        rows.push(vec![
            line.name.to_owned(),
            line.suites.join(", "),
            package.replace("{arch}", "*"),
            cached(Arch::X86_64),
            cached(Arch::Aarch64),
        ]);
    }
    say::result(&columns(&rows));
    for arch in [Arch::X86_64, Arch::Aarch64] {
        match setup::check(arch) {
            Ok(()) => say::result(&format!("{} guests: ready", arch.name())),
            Err(error) => say::result(&format!("{} guests: {error}", arch.name())),
        }
    }
}
