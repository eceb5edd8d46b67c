//! Call sites on a test terminal: from the destination to the line, and on to the whole stack.

use std::sync::Arc;

use ratatui::crossterm::event::KeyCode;

use crate::model::snapshot::{HookState, Snapshot};
use crate::sinks::sample_with_sites;
use crate::sinks::text::is_hostile;
use crate::sinks::tui::State;
use crate::sinks::tui::tests::{assert_shows, drawn, press, screen, state_with, type_text};
use crate::sinks::view::Page;

fn state_of(snapshot: Snapshot) -> State {
    let mut state = state_with(Page { colour: true, ..Page::default() }, snapshot);
    state.view.call_sites = true;
    state
}

fn state() -> State {
    state_of(sample_with_sites())
}

/// With its call sites open.
fn opened() -> State {
    let mut state = state();
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Enter);
    state
}

#[test]
fn the_column_names_the_line_also_on_a_small_screen() {
    for (width, height) in [(80, 24), (120, 40)] {
        assert_shows(&screen(&mut state(), width, height), &["CALL SITE", "97% db.py:31"]);
    }
    assert_shows(&screen(&mut state(), 120, 40), &["97% db.py:31 getSession"]);
}

#[test]
fn enter_lists_sites_and_enter_again_shows_the_whole_stack() {
    let mut state = opened();
    for (width, height) in [(80, 24), (120, 40)] {
        let sites = screen(&mut state, width, height);
        assert_shows(
            &sites,
            &["worker.py → 10.0.0.2:3306", "5 call sites", "COUNT", "97.2%", "open", "exact"],
        );
        assert_shows(&sites, &["db.py:31 getSession  ← worker.py:87 main", "(no stack was taken)", "close"]);
        assert_shows(
            &sites,
            &["line       /srv/app/db.py:31 getSession", "called by  /srv/app/worker.py:87 main"],
        );
        assert_shows(
            &sites,
            &["14\u{a0}002 of the connects begun (97.2 %), exact", "5 frames; Enter shows them"],
        );
        assert_shows(&sites, &["Enter whole stack", "Esc back"]);
    }
    press(&mut state, KeyCode::Enter);
    for (width, height) in [(80, 24), (120, 40)] {
        let stack = screen(&mut state, width, height);
        assert_shows(&stack, &["10.0.0.2:3306 → stack", "5 frames", "  0 connect", "linux-gnu/libc.so.6"]);
        assert_shows(
            &stack,
            &["▸  3 getSession", "/srv/app/db.py:31  line", "/srv/app/worker.py:87  called by"],
        );
        assert_shows(&stack, &["Esc back"]);
        assert!(!stack.contains("whole stack"), "there is nothing further to enter");
    }
    press(&mut state, KeyCode::Enter);
    assert_shows(&screen(&mut state, 80, 24), &["this is the innermost level"]);
    press(&mut state, KeyCode::Esc);
    assert_shows(&screen(&mut state, 80, 24), &["5 call sites"]);
    press(&mut state, KeyCode::Esc);
    assert_shows(&screen(&mut state, 80, 24), &["]:6379", "2 rows"]);
}

#[test]
fn what_was_sampled_and_event_loops_are_labelled() {
    let mut state = opened();
    press(&mut state, KeyCode::Down);
    let sites = screen(&mut state, 80, 24);
    assert_shows(&sites, &["sampled  fetch.py:3 fetch  [event loop]", "sampled: 6 were read"]);
    assert_shows(&sites, &["note       event loop: whoever scheduled this is not on the stack"]);
    press(&mut state, KeyCode::Enter);
    assert_shows(&screen(&mut state, 80, 24), &["event loop: whoever scheduled this", "Handle._run"]);
}

#[test]
fn the_selected_site_stays_selected_when_counts_change() {
    let mut state = opened();
    press(&mut state, KeyCode::Char('j'));
    let mut later = sample_with_sites();
    later.programs[0].destinations[0].call_sites.as_mut().unwrap().swap(0, 1);
    state.set_snapshot(Arc::new(later));
    let selected = |state: &mut State| {
        let screen = screen(state, 80, 24);
        screen.lines().find(|line| line.starts_with('▸')).unwrap_or_default().to_owned()
    };
    assert!(selected(&mut state).contains("fetch.py:3"), "{}", selected(&mut state));
    let mut gone = sample_with_sites();
    gone.programs.remove(0);
    state.set_snapshot(Arc::new(gone));
    assert_shows(&screen(&mut state, 80, 24), &["this destination is gone"]);
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Esc);
    assert!(!screen(&mut state, 80, 24).contains("gone"));
}

#[test]
fn a_site_without_a_stack_says_so() {
    let mut state = opened();
    type_text(&mut state, "jjj");
    press(&mut state, KeyCode::Enter);
    assert_shows(&screen(&mut state, 80, 24), &["no stack is known of this one", "5 call sites"]);
}

#[test]
fn the_processes_behind_a_destination_are_a_key_away() {
    let mut state = state();
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Char('o'));
    assert_shows(&screen(&mut state, 80, 24), &["worker.py → 10.0.0.2:3306", "PID", "2000", "1 row "]);
}

#[test]
fn without_call_sites_the_screen_says_how_to_have_them() {
    let mut off = crate::sinks::sample_snapshot();
    let mut state = state_of(off.clone());
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Enter);
    assert_shows(&screen(&mut state, 80, 24), &["leave `--stack off` out", "PID"]);
    off.hooks.push(HookState {
        name: "call_sites",
        attached: "none",
        required: false,
        reason: Some("tp_btf: no type information".to_owned()),
        skips_counted: None,
    });
    let mut state = state_of(off);
    press(&mut state, KeyCode::Enter);
    press(&mut state, KeyCode::Enter);
    assert_shows(
        &screen(&mut state, 80, 24),
        &["cannot be taken on this kernel: tp_btf: no type information"],
    );
}

#[test]
fn help_and_freeze_work_there_too() {
    let mut state = opened();
    press(&mut state, KeyCode::Char('?'));
    assert_shows(&screen(&mut state, 100, 100), &["the whole stack"]);
    press(&mut state, KeyCode::Esc);
    press(&mut state, KeyCode::Char(' '));
    assert!(state.frozen);
    assert_shows(&screen(&mut state, 80, 24), &["5 call sites", "FROZEN"]);
}

#[test]
fn hostile_names_stay_text_and_no_size_panics() {
    for keys in ["", "j", "jj", "G"] {
        for deeper in [false, true] {
            for unicode in [true, false] {
                let mut state = opened();
                state.view.page.unicode = unicode;
                type_text(&mut state, keys);
                if deeper {
                    press(&mut state, KeyCode::Enter);
                    type_text(&mut state, "j");
                }
                let screen = screen(&mut state, 160, 40);
                let hostile = screen.chars().find(|&c| c != '\n' && is_hostile(c));
                assert_eq!(hostile, None, "{screen}");
                assert!(unicode || screen.is_ascii(), "{screen}");
                for width in 1..=30 {
                    for height in 1..=10 {
                        drawn(&mut state, width, height);
                    }
                }
                drawn(&mut state, 1, 60);
                drawn(&mut state, 200, 1);
            }
        }
    }
}
