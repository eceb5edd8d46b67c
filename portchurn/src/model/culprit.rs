//! Which line of a stack is to blame: the innermost frame that belongs to the application, not to its interpreter, its
//! standard library or a driver. What those are is data, one table per language, and the command line may add to it.

use crate::model::program::without_version;
use crate::model::row::file_name;
use crate::model::sample::{Frame, Language};

/// What belongs to one language's runtime and to its libraries.
struct Lists {
    language: Language,
    /// Parts of file paths: standard library and runtime.
    runtime_files: &'static [&'static str],
    /// Parts of file paths where packages are installed. An application may be installed there, too.
    package_files: &'static [&'static str],
    /// Parts of file paths: drivers, clients and frameworks. Never the application.
    driver_files: &'static [&'static str],
    /// Functions.
    functions: &'static [&'static str],
    /// Beginnings of function names.
    namespaces: &'static [&'static str],
    /// The same, where the file is not known: an application may have a namespace of that name, too.
    common_namespaces: &'static [&'static str],
    /// Beginnings of the file names of modules.
    modules: &'static [&'static str],
}

/// One table per language.
const LISTS: &[Lists] = &[
    Lists {
        language: Language::Python,
        runtime_files: &[
            "<frozen ",
            "/lib/python3.",
            "/lib64/python3.",
            "/lib/python2.",
            "<__array_function__",
            // Wrappers that libraries write at run time.
            "<attrs generated ",
            "<decorator-gen-",
            "<sqlalchemy generated ",
        ],
        package_files: &["/site-packages/", "/dist-packages/"],
        driver_files: &[
            "/MySQLdb/",
            "/aiohttp/",
            "/aiomysql/",
            "/aioredis/",
            "/amqp/",
            "/anyio/",
            "/asyncpg/",
            "/boto3/",
            "/botocore/",
            "/cassandra/",
            "/celery/",
            "/clickhouse_driver/",
            "/dns/",
            "/django/",
            "/elastic_transport/",
            "/elasticsearch/",
            "/eventlet/",
            "/fastapi/",
            "/flask/",
            "/gevent/",
            "/grpc/",
            "/gunicorn/",
            "/h11/",
            "/httpcore/",
            "/httplib2/",
            "/httpx/",
            "/kafka/",
            "/kombu/",
            "/ldap3/",
            "/memcache",
            "/mysql/connector/",
            "/neo4j/",
            "/paramiko/",
            "/peewee",
            "/pika/",
            "/psycopg/",
            "/psycopg2/",
            "/pymemcache/",
            "/pymongo/",
            "/pymysql/",
            "/redis/",
            "/requests/",
            "/sqlalchemy/",
            "/starlette/",
            "/thrift/",
            "/tornado/",
            "/trio/",
            "/twisted/",
            "/urllib3/",
            "/uvicorn/",
            "/uvloop/",
            "/websocket",
            "/werkzeug/",
            "/zmq/",
        ],
        functions: &[],
        namespaces: &[],
        common_namespaces: &[],
        modules: &[],
    },
    Lists {
        language: Language::Native,
        runtime_files: &[
            "/rustc/",
            "/library/alloc/",
            "/library/core/",
            "/library/std/",
            "/usr/include/",
            "/usr/lib/go",
            "/usr/local/go/",
        ],
        package_files: &["/.cargo/registry/", "/go/pkg/mod/"],
        driver_files: &[],
        functions: &[
            "__clone",
            "__clone3",
            "__connect",
            "_start",
            "clone",
            "clone3",
            "connect",
            "start_thread",
        ],
        namespaces: &[
            "<hyper::",
            "<mio::",
            "<reqwest::",
            "<tokio::",
            "__GI_",
            "__libc_",
            "__rust_",
            "crypto/tls.",
            "database/sql.",
            "golang.org/",
            "h2::",
            "hyper::",
            "hyper_util::",
            "internal/",
            "mio::",
            "net.",
            "net/",
            "os.",
            "redis::",
            "reqwest::",
            "runtime.",
            "socket2::",
            "sqlx::",
            "sqlx_core::",
            "sqlx_mysql::",
            "sqlx_postgres::",
            "syscall.",
            "tokio::",
            "tokio_native_tls::",
            "tokio_postgres::",
            "tokio_rustls::",
            "tokio_util::",
        ],
        common_namespaces: &["<alloc::", "<core::", "<std::", "alloc::", "core::", "std::"],
        modules: &[
            "[",
            "ld-linux",
            "ld-musl",
            "libboost",
            "libc-",
            "libc.",
            "libcurl",
            "libevent",
            "libgcc",
            "libhiredis",
            "libldap",
            "libmariadb",
            "libmemcached",
            "libmongoc",
            "libmysqlclient",
            "libnss",
            "libodbc",
            "libpq.",
            "libpthread",
            "libpython",
            "libresolv",
            "libssl",
            "libstdc++",
            "libtsan",
            "libuv",
            "python3",
            "_mysql",
            "_socket",
            "_ssl",
            "_psycopg",
        ],
    },
];

/// Interpreters whose own frames are not read, without a version at the end: what is native on such a stack belongs to them or to
/// their extensions, never to the script.
const UNREAD: &[&str] =
    &["bash", "dash", "java", "node", "nodejs", "perl", "php", "php-cgi", "php-fpm", "ruby", "sh"];
/// Beginnings of the file names of their libraries.
const UNREAD_LIBRARIES: &[&str] =
    &["libjava.", "libjvm.", "libnet.so", "libnio.", "libnode.", "libperl.", "libphp", "libruby"];

/// Files of event loops: whoever asked for the connection is no longer on the stack.
const EVENT_LOOPS: &[&str] =
    &["/asyncio/", "/gevent/", "/eventlet/", "/tornado/ioloop", "/twisted/internet/", "/trio/", "/uvloop/"];
const EVENT_LOOP: &str = "event loop: whoever scheduled this is not on the stack";
const NO_APPLICATION: &str = "no application frame: the innermost frame that was found is shown";
const UNNAMED: &str = "some frames could not be named: the line may be one that called it";
const ONLY_UNNAMED: &str = "no line: the frames that may be the application's could not be named";
const ONLY_UNREAD: &str = "no line: the frames of a script in this language are not read";
const ONLY_RUNTIME: &str = "no application frame: only the runtime's were found";

/// The tables, and what the command line adds.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// `--app-path`: parts of paths that are the application whatever the tables say.
    pub app_paths: Vec<String>,
    /// `--skip-path`: parts of paths that are not.
    pub skip_paths: Vec<String>,
}

/// The frames that stand for a stack.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Choice {
    /// The line to blame.
    pub culprit: Option<usize>,
    /// The application's line that called it: with lazy connections the loop is here.
    pub called_from: Option<usize>,
    /// The language of the culprit.
    pub language: Option<&'static str>,
    /// What to know about it.
    pub note: Option<&'static str>,
}

/// How far a frame is from being the application's.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    Application,
    Package,
    /// Nothing is known of it.
    Unnamed,
    Driver,
    Runtime,
}

impl Rules {
    /// Chooses. Frames are innermost first.
    pub fn choose(&self, frames: &[Frame]) -> Choice {
        let Some((language, ranks)) = self.ranked(frames) else { return Choice::default() };
        let best = [Rank::Application, Rank::Package, Rank::Unnamed, Rank::Driver, Rank::Runtime]
            .into_iter()
            .find(|rank| ranks.iter().any(|(_, found)| found == rank));
        // The C library's connect() is in every stack, and nobody's line of code.
        let nobody = match best {
            Some(Rank::Runtime | Rank::Unnamed) if is_of_script(language, frames) => Some(ONLY_UNREAD),
            Some(Rank::Runtime) if language == Language::Native => Some(ONLY_RUNTIME),
            Some(Rank::Unnamed) => Some(ONLY_UNNAMED),
            _ => None,
        };
        if nobody.is_some() {
            return Choice { language: Some(language.name()), note: nobody, ..Choice::default() };
        }
        let mut chosen = ranks.iter().filter(|(_, rank)| Some(*rank) == best).map(|(index, _)| *index);
        let culprit = chosen.next();
        let is_before = |index: usize| culprit.is_some_and(|culprit| index < culprit);
        let is_doubtful = ranks.iter().any(|&(index, rank)| rank == Rank::Unnamed && is_before(index));
        let is_loop = culprit.is_some_and(|culprit| is_called_by_event_loop(&frames[culprit..]));
        Choice {
            culprit,
            called_from: chosen.next(),
            language: Some(language.name()),
            note: match best {
                Some(Rank::Driver | Rank::Runtime) => Some(NO_APPLICATION),
                _ if is_doubtful => Some(UNNAMED),
                _ if is_loop => Some(EVENT_LOOP),
                _ => None,
            },
        }
    }

    /// Frames of the stack's highest language: where an interpreter runs, its own native frames say nothing.
    fn ranked(&self, frames: &[Frame]) -> Option<(Language, Vec<(usize, Rank)>)> {
        let language = if frames.iter().any(|frame| frame.language == Language::Python) {
            Language::Python
        } else {
            frames.first()?.language
        };
        let lists = LISTS.iter().find(|lists| lists.language == language)?;
        let is_script = is_of_script(language, frames);
        let of_language = frames.iter().enumerate().filter(|(_, frame)| frame.language == language);
        let ranks = of_language.map(|(index, frame)| (index, self.rank(lists, frame, is_script)));
        Some((language, ranks.collect()))
    }

    fn rank(&self, lists: &Lists, frame: &Frame, is_script: bool) -> Rank {
        let file = frame.file.as_deref().unwrap_or_default();
        let module = frame.module.as_deref().unwrap_or_default();
        let contains = |part: &String| file.contains(part.as_str()) || module.contains(part.as_str());
        if self.app_paths.iter().any(contains) {
            return Rank::Application;
        }
        if self.skip_paths.iter().any(contains) {
            return Rank::Driver;
        }
        // Native code always lies in some file, but for what was compiled a moment ago.
        if file.is_empty() && (lists.language == Language::Python || module.is_empty()) {
            return Rank::Unnamed;
        }
        let is_in = |parts: &[&str]| parts.iter().any(|part| file.contains(part));
        let begins = |starts: &[&str]| starts.iter().any(|start| frame.function.starts_with(start));
        let module_name = file_name(module);
        let is_package = is_in(lists.package_files);
        if lists.functions.contains(&&*frame.function)
            || begins(lists.namespaces)
            || file.is_empty() && begins(lists.common_namespaces)
            || lists.modules.iter().any(|start| module_name.starts_with(start))
            || !is_package && is_in(lists.runtime_files)
        {
            return Rank::Runtime;
        }
        match (is_package, is_in(lists.driver_files)) {
            (true, true) => Rank::Driver,
            (true, false) => Rank::Package,
            (false, _) if is_script => Rank::Runtime,
            // An application may have a folder of its own that is called like a driver.
            (false, _) => Rank::Application,
        }
    }
}

/// Whether a stack is that of a script whose frames are not read.
fn is_of_script(language: Language, frames: &[Frame]) -> bool {
    language == Language::Native && frames.iter().any(is_of_unread)
}

/// Whether it is native code of an interpreter whose own frames are not read.
fn is_of_unread(frame: &Frame) -> bool {
    let name = file_name(frame.module.as_deref().unwrap_or_default());
    UNREAD.contains(&without_version(name)) || UNREAD_LIBRARIES.iter().any(|start| name.starts_with(start))
}

fn is_called_by_event_loop(callers: &[Frame]) -> bool {
    callers.iter().skip(1).any(|frame| {
        frame.file.as_deref().is_some_and(|file| EVENT_LOOPS.iter().any(|part| file.contains(part)))
    })
}

#[cfg(test)]
mod tests {
    use super::Rules;
    use crate::model::sample::Frame;

    fn native(function: &str, module: &str) -> Frame {
        Frame::native(function, Some(module))
    }

    #[test]
    fn with_lazy_connections_the_query_is_to_blame_and_the_loop_called_it() {
        let frames = [
            native("connect", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
            Frame::python("create_connection", "/usr/lib/python3.11/socket.py", 851),
            Frame::python("connect", "/usr/lib/python3/dist-packages/pymysql/connections.py", 613),
            Frame::python("execute", "/usr/lib/python3/dist-packages/sqlalchemy/engine/base.py", 1705),
            Frame::python("getSession", "/srv/app/sync.py", 41),
            Frame::python("main", "/srv/app/sync.py", 87),
        ];
        let choice = Rules::default().choose(&frames);
        assert_eq!((choice.culprit, choice.called_from), (Some(4), Some(5)));
        assert_eq!((choice.language, choice.note), (Some("python"), None));
    }

    #[test]
    fn code_that_a_library_generates_is_the_library_s() {
        let frames = [
            Frame::python(
                "_connection_for_bind",
                "<sqlalchemy generated _go() wrapper for sqlalchemy.orm>",
                2,
            ),
            Frame::python("execute", "/venv/lib/python3.12/site-packages/sqlalchemy/orm/session.py", 2300),
            Frame::python("load", "<string>", 4),
        ];
        assert_eq!(Rules::default().choose(&frames).culprit, Some(2));
    }

    #[test]
    fn a_package_that_is_no_driver_may_be_the_application() {
        let frames = [
            Frame::python("request", "/venv/lib/python3.12/site-packages/requests/api.py", 59),
            Frame::python("poll", "/venv/lib/python3.12/site-packages/our_agent/poller.py", 12),
            Frame::python("_run", "/usr/lib/python3.12/threading.py", 1012),
        ];
        assert_eq!(Rules::default().choose(&frames).culprit, Some(1));
    }

    #[test]
    fn paths_of_the_command_line_come_first() {
        let frames =
            [Frame::python("a", "/srv/vendored/client.py", 1), Frame::python("b", "/srv/app/main.py", 2)];
        assert_eq!(Rules::default().choose(&frames).culprit, Some(0));
        let skip = Rules { skip_paths: vec!["/vendored/".to_owned()], ..Rules::default() };
        assert_eq!(skip.choose(&frames).culprit, Some(1));
        let frames = [
            Frame::python("a", "/x/site-packages/redis/client.py", 1),
            Frame::python("b", "/srv/app/main.py", 2),
        ];
        let app = Rules { app_paths: vec!["/redis/".to_owned()], ..Rules::default() };
        assert_eq!(app.choose(&frames).culprit, Some(0));
    }

    #[test]
    fn a_callback_of_an_event_loop_says_so() {
        let frames = [
            Frame::python("fetch", "/srv/a.py", 3),
            Frame::python("_run", "/usr/lib/python3.11/asyncio/events.py", 80),
        ];
        let choice = Rules::default().choose(&frames);
        assert_eq!(choice.culprit, Some(0));
        assert!(choice.note.is_some_and(|note| note.starts_with("event loop")));
    }

    #[test]
    fn native_code_is_told_from_its_libraries() {
        let frames = [
            native("connect", "/usr/lib/libc.so.6"),
            native("std::net::tcp::TcpStream::connect", "/srv/bin/loader"),
            native("loader::fetch", "/srv/bin/loader"),
            native("loader::main", "/srv/bin/loader"),
            native("__libc_start_main", "/usr/lib/libc.so.6"),
        ];
        let choice = Rules::default().choose(&frames);
        assert_eq!((choice.culprit, choice.called_from), (Some(2), Some(3)));
    }

    #[test]
    fn what_is_called_like_a_library_is_not_taken_for_it() {
        let in_file = |function: &str, file: &str| Frame {
            file: Some(file.into()),
            line: Some(7),
            ..native(function, "/srv/bin/loader")
        };
        for frame in [
            native("connect_db", "/srv/bin/loader"),
            native("clone_session", "/srv/bin/loader"),
            native("hyperloop::dial", "/srv/bin/loader"),
            in_file("dial", "/home/u/loader/src/net/client.c"),
            in_file("core::dial", "/home/u/loader/src/core.cc"),
        ] {
            let frames = [native("connect", "/usr/lib/libc.so.6"), frame, native("main", "/srv/bin/loader")];
            assert_eq!(Rules::default().choose(&frames).culprit, Some(1), "{frames:?}");
        }
        let inlined =
            in_file("core::ops::function::FnOnce::call_once", "/rustc/5980/library/core/src/ops/function.rs");
        assert_eq!(Rules::default().choose(&[inlined, native("main", "/srv/bin/loader")]).culprit, Some(1));
    }

    #[test]
    fn a_frame_without_a_name_is_no_line_to_blame() {
        let unnamed = || Frame { file: None, line: None, ..Frame::python("(code object 0x7f00)", "", 0) };
        let driver =
            || Frame::python("connect", "/usr/lib/python3/dist-packages/pymysql/connections.py", 613);
        let choice = Rules::default().choose(&[unnamed(), Frame::python("main", "/srv/app/sync.py", 87)]);
        assert_eq!(choice.culprit, Some(1));
        assert!(choice.note.is_some_and(|note| note.starts_with("some frames could not be named")));
        let choice = Rules::default().choose(&[driver(), unnamed()]);
        assert_eq!(choice.culprit, None);
        assert!(choice.note.is_some_and(|note| note.starts_with("no line")));
    }

    #[test]
    fn a_stack_without_any_application_shows_what_there_is() {
        let frames = [Frame::python("create_connection", "/usr/lib/python3.11/socket.py", 851)];
        let choice = Rules::default().choose(&frames);
        assert_eq!(choice.culprit, Some(0));
        assert!(choice.note.is_some());
        assert_eq!(Rules::default().choose(&[]), super::Choice::default());
    }

    #[test]
    fn what_is_native_in_an_interpreter_that_is_not_read_is_no_line_of_the_script() {
        let connect = || native("connect", "/usr/lib/x86_64-linux-gnu/libc.so.6");
        let compiled = || Frame::native("0x7f3a2c01", None);
        for frames in [
            vec![native("php_network_connect_socket", "/usr/sbin/php-fpm8.2")],
            vec![
                native("mysqlnd_connect", "/usr/lib/php/20220829/mysqlnd.so"),
                native("execute_ex", "/usr/bin/php"),
            ],
            vec![native("node::TCPWrap::Connect", "/usr/bin/node"), compiled()],
            vec![native("Java_sun_nio_ch_Net_connect0", "/opt/jdk/lib/libnio.so"), compiled()],
        ] {
            let frames: Vec<_> = std::iter::once(connect()).chain(frames).collect();
            let choice = Rules::default().choose(&frames);
            assert_eq!(choice.culprit, None, "{frames:?}");
            assert!(
                choice.note.is_some_and(|said| said.starts_with("no line: the frames of a script")),
                "{choice:?}"
            );
        }
        let exporter = [connect(), native("main.scrape", "/usr/bin/node_exporter")];
        assert_eq!(Rules::default().choose(&exporter).culprit, Some(1));
        let extension =
            [connect(), native("dial", "/srv/ours/fast.so"), native("execute_ex", "/usr/bin/php8.2")];
        let rules = Rules { app_paths: vec!["/srv/ours/".to_owned()], ..Rules::default() };
        assert_eq!(rules.choose(&extension).culprit, Some(1));
    }

    #[test]
    fn the_c_library_is_never_to_blame() {
        let choice = Rules::default().choose(&[native("connect", "/usr/lib/libc.so.6")]);
        assert_eq!((choice.culprit, choice.called_from, choice.language), (None, None, Some("native")));
        assert!(choice.note.is_some());
    }
}
