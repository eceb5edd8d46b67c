//! Inside of a destination: its call sites, and the whole stack of one of them. What is looked at and what keys do; how
//! it looks is said in `sites_draw`. Sites are found again by what they are, as counts change their order.

use crate::model::row::{Level, Row};
use crate::model::snapshot::{CallSite, Destination, Snapshot};
use crate::sinks::tui::keys::Command;
use crate::sinks::tui::place::{DestinationId, OwnerId, destination_of};
use crate::sinks::tui::state::{Action, State, moved};

/// Which site: its stack, and at which moment.
#[derive(Clone, Debug)]
struct SiteId(CallSite);

impl SiteId {
    fn is(&self, site: &CallSite) -> bool {
        let frames = |site: &CallSite| site.frames.as_ref().map(|stack| stack.frames.clone());
        self.0.at == site.at && self.0.note == site.note && frames(&self.0) == frames(site)
    }
}

/// What is looked at inside of a destination.
#[derive(Debug)]
pub(super) struct SitesPane {
    owner: OwnerId,
    destination: DestinationId,
    /// Of the destination, for the line above.
    pub(super) title: String,
    /// `None`: nothing was selected yet, the most passed one is.
    selected: Option<SiteId>,
    pub(super) cursor: usize,
    /// First line on the screen. Kept by `sites_draw`.
    pub(super) scroll: usize,
    /// Set: the whole stack of the selected site is shown, from this line on.
    pub(super) stack: Option<usize>,
}

impl SitesPane {
    /// Where Enter leads from a destination; `None`: call sites are not taken.
    pub(super) fn inside(row: &Row<'_>) -> Option<Self> {
        let destination = row.destination.filter(|_| row.level == Level::Destination)?;
        destination.call_sites.as_ref()?;
        Some(Self {
            owner: OwnerId::of(row.owner),
            destination: DestinationId::of(destination),
            title: row.destination_text(destination),
            selected: None,
            cursor: 0,
            scroll: 0,
            stack: None,
        })
    }

    /// The destination as it is now; `None`: it is gone.
    pub(super) fn destination<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Destination> {
        destination_of(snapshot, &self.owner, self.destination)
    }

    /// Its sites.
    pub(super) fn list<'a>(&self, snapshot: &'a Snapshot) -> &'a [CallSite] {
        self.destination(snapshot).and_then(|found| found.call_sites.as_deref()).unwrap_or_default()
    }

    /// The selected one.
    pub(super) fn site<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a CallSite> {
        self.list(snapshot).get(self.cursor)
    }

    /// Puts the cursor on the selected site, wherever it has gone.
    fn find_selected(&mut self, snapshot: &Snapshot) {
        let list = self.list(snapshot);
        let found = self.selected.as_ref().and_then(|id| list.iter().position(|site| id.is(site)));
        self.cursor = match (found, &self.selected) {
            (Some(at), _) => at,
            (None, Some(_)) => self.cursor.min(list.len().saturating_sub(1)),
            (None, None) => 0,
        };
    }

    fn select(&mut self, at: usize, snapshot: &Snapshot) {
        if let Some(site) = self.list(snapshot).get(at) {
            (self.cursor, self.selected) = (at, Some(SiteId(site.clone())));
        }
    }
}

/// Why there are no call sites, and what to do about it.
fn why_none(snapshot: &Snapshot) -> String {
    let hook = snapshot.hooks.iter().find(|hook| hook.name == "call_sites");
    let refusal =
        hook.and_then(|hook| hook.reason.as_deref()).filter(|reason| !reason.contains("on request"));
    match refusal {
        Some(reason) => format!("lines of code cannot be taken on this kernel: {reason}"),
        None => "lines of code are not taken: leave `--stack off` out to see them here".to_owned(),
    }
}

impl State {
    /// Goes from a destination to its call sites. False: the row is no destination, or they are not taken, which is said.
    pub(super) fn go_to_sites(&mut self) -> bool {
        let Some((snapshot, selection)) = self.snapshot().zip(self.selection()) else { return false };
        let Some(row) = selection.rows.get(self.cursor).filter(|row| row.level == Level::Destination) else {
            return false;
        };
        let (pane, why) = (SitesPane::inside(row), why_none(snapshot));
        drop(selection);
        match pane {
            Some(pane) => self.sites = Some(pane),
            None => self.notify(why, false),
        }
        self.sites.is_some()
    }

    /// Does what a key asks for while call sites are shown.
    pub(super) fn in_sites(&mut self, command: Command) -> Action {
        let page = self.page_rows;
        let (Some(pane), Some(snapshot)) = (self.sites.as_mut(), self.snapshot.as_deref()) else {
            return Action::None;
        };
        match command {
            Command::Open if pane.stack.is_none() => match pane.site(snapshot) {
                Some(site) if site.frames.is_some() => {
                    pane.select(pane.cursor, snapshot);
                    pane.stack = Some(0);
                }
                Some(_) => self.notify("no stack is known of this one", false),
                None => {}
            },
            Command::Open => self.notify("this is the innermost level", false),
            Command::Back | Command::Out if pane.stack.is_some() => pane.stack = None,
            Command::Back | Command::Out => self.sites = None,
            _ => match pane.stack {
                Some(from) => {
                    let frames = pane.site(snapshot).and_then(|site| site.frames.as_ref());
                    let len = frames.map_or(0, |stack| stack.frames.len());
                    // Scrolls by lines: there is nothing to select.
                    if let Some(to) = moved(command, from, (len + 1).saturating_sub(page), page) {
                        pane.stack = Some(to);
                    } else {
                        return self.browse(command);
                    }
                }
                None => match moved(command, pane.cursor, pane.list(snapshot).len(), page) {
                    Some(to) => pane.select(to, snapshot),
                    None => return self.browse(command),
                },
            },
        }
        Action::None
    }

    /// After a new snapshot.
    pub(super) fn find_selected_site(&mut self) {
        if let (Some(pane), Some(snapshot)) = (self.sites.as_mut(), self.snapshot.as_deref()) {
            pane.find_selected(snapshot);
        }
    }
}
