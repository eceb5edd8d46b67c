//! One stack of two: native frames, and the interpreter frames that some of them run. Each native frame of the
//! interpreter's loop stands for a run of interpreter frames; the interpreter's own native frames say nothing to people
//! and are left out, those of extensions and libraries stay.

use crate::model::sample::{Frame, Language};

/// Interpreter frames from where C entered the interpreter inwards; each run innermost first.
pub type Runs = Vec<Vec<Frame>>;

/// Functions that are the interpreter's loop.
const LOOPS: &[&str] = &["_PyEval_EvalFrameDefault", "PyEval_EvalFrameEx", "_PyEval_EvalFrameDefault.cold"];
/// Files that hold the interpreter.
const INTERPRETERS: &[&str] = &["libpython3", "python3", "python", "uwsgi"];

/// Merges. Both innermost first.
pub fn merge(native: Vec<Frame>, runs: Runs) -> Vec<Frame> {
    let loops = native.iter().filter(|frame| is_loop(frame)).count();
    if loops == runs.len() {
        return woven(native, runs);
    }
    // They do not fit (a copy that was cut off, a loop without a name): what C code the innermost frame called is sure.
    let mut frames: Vec<_> = native
        .into_iter()
        .take_while(|frame| !is_interpreter(frame))
        .filter(|frame| frame.module.is_some())
        .collect();
    frames.extend(runs.into_iter().flatten());
    frames
}

fn woven(native: Vec<Frame>, runs: Runs) -> Vec<Frame> {
    let mut runs = runs.into_iter();
    let mut frames = Vec::new();
    for frame in native {
        if is_loop(&frame) {
            frames.extend(runs.next().unwrap_or_default());
        } else if !is_interpreter(&frame) {
            frames.push(frame);
        }
    }
    frames
}

fn is_loop(frame: &Frame) -> bool {
    frame.language == Language::Native && LOOPS.iter().any(|name| *frame.function == **name)
}

fn is_interpreter(frame: &Frame) -> bool {
    let module = frame.module.as_deref().unwrap_or_default();
    let name = module.rsplit('/').next().unwrap_or_default();
    INTERPRETERS.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::merge;
    use crate::model::sample::{Frame, Language};

    fn native(function: &str, module: &str) -> Frame {
        Frame::native(function, Some(module))
    }

    fn python(function: &str) -> Frame {
        Frame { language: Language::Python, module: None, ..native(function, "") }
    }

    fn names(frames: &[Frame]) -> Vec<&str> {
        frames.iter().map(|frame| &*frame.function).collect()
    }

    fn stack() -> Vec<Frame> {
        vec![
            native("connect", "/usr/lib/libc.so.6"),
            native("sock_connect", "/usr/lib/python3.11/lib-dynload/_socket.so"),
            native("_PyEval_EvalFrameDefault", "/usr/bin/python3.11"),
            native("list_sort", "/usr/bin/python3.11"),
            native("_PyEval_EvalFrameDefault", "/usr/bin/python3.11"),
            native("__libc_start_main", "/usr/lib/libc.so.6"),
        ]
    }

    #[test]
    fn each_run_stands_where_the_interpreter_ran_it() {
        let merged = merge(stack(), vec![vec![python("key")], vec![python("inner"), python("main")]]);
        assert_eq!(names(&merged), ["connect", "sock_connect", "key", "inner", "main", "__libc_start_main"]);
    }

    #[test]
    fn what_does_not_fit_is_not_guessed() {
        let merged = merge(stack(), vec![vec![python("key"), python("main")]]);
        assert_eq!(names(&merged), ["connect", "sock_connect", "key", "main"]);
        assert_eq!(names(&merge(Vec::new(), vec![vec![python("main")]])), ["main"]);
    }
}
