//! Every path that a file mentions: imports, types, expressions, and what stands inside macros and attributes.
//! `self` and `super` are resolved, so that nothing climbs out of its layer unseen.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, File, ItemMod, ItemUse, Macro, Meta, UseTree};

/// A path of at least one segment. Within the crate it begins with `crate`.
pub(crate) struct Reference {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
}

/// What a file mentions; `module` is the path of its module.
pub(crate) fn references(file: &File, module: &[String]) -> Vec<Reference> {
    let mut collector = Collector { module: module.to_vec(), found: Vec::new() };
    collector.visit_file(file);
    collector.found
}

struct Collector {
    module: Vec<String>,
    found: Vec<Reference>,
}

impl Collector {
    fn add(&mut self, path: &[String], line: usize) {
        let path = self.absolute(path);
        self.found.push(Reference { path, line });
    }

    /// Replaces leading `self` and `super` by the module they mean.
    fn absolute(&self, path: &[String]) -> Vec<String> {
        let relative = path.iter().take_while(|part| *part == "self" || *part == "super").count();
        if relative == 0 {
            return path.to_vec();
        }
        let climbs = path[..relative].iter().filter(|part| *part == "super").count();
        let kept = self.module.len().saturating_sub(climbs);
        let base = std::iter::once("crate".to_owned()).chain(self.module[..kept].iter().cloned());
        base.chain(path[relative..].iter().cloned()).collect()
    }

    fn add_tree(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: &syn::Ident| prefix.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.add(&with(&name.ident), name.span().start().line),
            UseTree::Rename(name) => self.add(&with(&name.ident), name.span().start().line),
            UseTree::Glob(glob) => self.add(prefix, glob.span().start().line),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, prefix);
                }
            }
        }
    }

    /// Finds `a::b::c` among tokens that have no syntax of their own.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut colons, mut line) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.flush(&mut path, line);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.flush(&mut path, line);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.flush(&mut path, line);
    }

    fn flush(&mut self, path: &mut Vec<String>, line: usize) {
        if path.len() > 1 {
            self.add(path, line);
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add(&segments, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }
}
