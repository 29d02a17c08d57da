//! `libchdb.so`: finding it, loading it, and the one call that runs a server inside it.

use std::env;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::EngineError;

/// Where `npm ci` puts the library, relative to the repository.
const INSTALLED: &str = "deploy/clickhouse/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so";

/// The library's file: `explicit`, else `ORBIT_LIBCHDB`, else the installed package in this or a
/// parent directory of the crate under test, the working directory or the program.
pub(super) fn locate(explicit: Option<&Path>) -> Result<PathBuf, EngineError> {
    let named = explicit.map(Path::to_owned).or_else(|| {
        env::var_os("ORBIT_LIBCHDB").filter(|value| !value.is_empty()).map(PathBuf::from)
    });
    if let Some(path) = named {
        // A file that was named is not silently replaced by another one.
        return if path.is_file() {
            Ok(path)
        } else {
            Err(EngineError::LibraryMissing { looked_at: vec![path] })
        };
    }
    let starts = [
        env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        env::current_dir().ok(),
        env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)),
    ];
    for start in starts.iter().flatten() {
        for directory in start.ancestors() {
            let candidate = directory.join(INSTALLED);
            if candidate.is_file() {
                return Ok(candidate);
            }
        }
    }
    let looked_at = starts.iter().flatten().map(|start| start.join(INSTALLED)).collect();
    Err(EngineError::LibraryMissing { looked_at })
}

type RunCommandLine = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;
type ResultError = unsafe extern "C" fn(*mut c_void) -> *const c_char;

/// The loaded engine. Never unloaded: its threads and static objects live until the process ends.
pub(super) struct Libchdb {
    run: RunCommandLine,
    error: ResultError,
}

impl Libchdb {
    /// Loads the library and finds the two functions that serving needs.
    #[allow(unsafe_code, reason = "loading a foreign library and naming its functions")]
    pub(super) fn load(path: &Path) -> Result<Self, EngineError> {
        let unusable = |source| EngineError::LibraryUnusable { path: path.to_owned(), source };
        // SAFETY: libchdb.so runs only C++ static initialisers when loaded; it is the file that the
        // operator installed or named, and nothing of it is used before this returns.
        let library =
            unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(unusable)?;
        // SAFETY: the signatures are those of chdb.h: `chdb_result *chdb_query_cmdline(int, char
        // **)` and `const char *chdb_result_error(chdb_result *)`, with the result kept opaque. The
        // pointers stay valid because the library is leaked below.
        let engine = unsafe {
            Self {
                run: *library.get::<RunCommandLine>(c"chdb_query_cmdline").map_err(unusable)?,
                error: *library.get::<ResultError>(c"chdb_result_error").map_err(unusable)?,
            }
        };
        std::mem::forget(library);
        Ok(engine)
    }

    /// Runs clickhouse-local with `arguments` (the first is the program's name) until its queries
    /// end. Returns the engine's error message, if it has one.
    #[allow(unsafe_code, reason = "the call into the engine")]
    pub(super) fn run(&self, arguments: Vec<CString>) -> Result<(), String> {
        let count = c_int::try_from(arguments.len()).expect("a dozen arguments fit in an int");
        // The engine may keep pointers into its arguments, as a main() may: leak them, with the
        // terminating null that argv has.
        let mut argv: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        argv.push(std::ptr::null_mut());
        let argv = Box::leak(argv.into_boxed_slice());
        // SAFETY: `argv` holds `count` NUL-terminated strings and a final null, all leaked, so they
        // are valid and writable for as long as the engine runs.
        let result = unsafe { (self.run)(count, argv.as_mut_ptr()) };
        if result.is_null() {
            return Err("it gave no result".to_owned());
        }
        // SAFETY: `result` is the live result of the call above; it is never freed. The function
        // returns null or a NUL-terminated string that the result owns.
        let message = unsafe { (self.error)(result) };
        if message.is_null() {
            return Ok(());
        }
        // SAFETY: not null, NUL-terminated and owned by the leaked result, as stated above.
        let message = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
        if message.is_empty() { Ok(()) } else { Err(message) }
    }
}
