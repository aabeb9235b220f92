//! Every Python object the runtime needs, imported once, in one table.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

macro_rules! table {
    ($(#[$about:meta])* $table:ident:
     $($(#[$attribute:meta])* $field:ident = $module:literal . $name:literal;)*) => {
        $(#[$about])*
        #[allow(missing_docs)]
        pub struct $table { $($(#[$attribute])* pub $field: Py<PyAny>,)* }

        impl $table {
            fn load(py: Python<'_>) -> PyResult<Self> {
                Ok($table { $($(#[$attribute])*
                    $field: py.import($module)?.getattr($name)?.unbind(),)* })
            }
        }
    };
}

table! {
    /// What the runtime uses of Python's standard library.
    Imports:
    cancelled_error = "asyncio.exceptions"."CancelledError";
    invalid_state_error = "asyncio.exceptions"."InvalidStateError";
    future = "asyncio"."Future";
    task = "asyncio"."Task";
    handle = "asyncio"."Handle";
    timer_handle = "asyncio"."TimerHandle";
    transport = "asyncio"."Transport";
    datagram_transport = "asyncio"."DatagramTransport";
    tls_transport = "asyncio.sslproto"."_SSLProtocolTransport";
    read_transport = "asyncio"."ReadTransport";
    get_event_loop = "asyncio.events"."get_event_loop";
    get_running_loop = "asyncio.events"."_get_running_loop";
    logger = "asyncio.log"."logger";
    base_events = "asyncio"."base_events";
    iscoroutine = "asyncio.coroutines"."iscoroutine";
    generic_alias = "types"."GenericAlias";
    future_repr_info = "asyncio.base_futures"."_future_repr_info";
    task_repr_info = "asyncio.base_tasks"."_task_repr_info";
    task_get_stack = "asyncio.base_tasks"."_task_get_stack";
    task_print_stack = "asyncio.base_tasks"."_task_print_stack";
    extract_stack = "asyncio.format_helpers"."extract_stack";
    format_callback_source = "asyncio.format_helpers"."_format_callback_source";
    register_task = "asyncio.tasks"."_register_task";
    #[cfg(not(Py_3_14))]
    current_tasks = "asyncio.tasks"."_current_tasks";
    #[cfg(Py_3_14)]
    swap_current_task = "asyncio.tasks"."_swap_current_task";
    #[cfg(Py_3_14)]
    current_task = "asyncio.tasks"."current_task";
    sendfile_mode = "asyncio.constants"."_SendfileMode";
    socket = "socket"."socket";
    transport_socket = "asyncio.trsock"."TransportSocket";
    protocol = "asyncio"."Protocol";
    buffered_protocol = "asyncio"."BufferedProtocol";
    warn = "warnings"."warn";
    lock = "asyncio"."Lock";
    stream_reader = "asyncio"."StreamReader";
    stream_writer = "asyncio"."StreamWriter";
    stream_reader_protocol = "asyncio"."StreamReaderProtocol";
    incomplete_read_error = "asyncio"."IncompleteReadError";
    limit_overrun_error = "asyncio"."LimitOverrunError";
    event = "asyncio"."Event";
    semaphore = "asyncio"."Semaphore";
    bounded_semaphore = "asyncio"."BoundedSemaphore";
    queue = "asyncio"."Queue";
    lifo_queue = "asyncio"."LifoQueue";
    priority_queue = "asyncio"."PriorityQueue";
    queue_is_empty = "asyncio"."QueueEmpty";
    queue_is_full = "asyncio"."QueueFull";
    deque = "collections"."deque";
    heap_push = "heapq"."heappush";
    heap_pop = "heapq"."heappop";
    task_group = "asyncio.taskgroups"."TaskGroup";
    timeout = "asyncio.timeouts"."Timeout";
    ensure_future = "asyncio.tasks"."ensure_future";
    future_loop = "asyncio.futures"."_get_loop";
    get_ident = "threading"."get_ident";
    concurrent_future = "concurrent.futures"."Future";
    convert_future_error = "asyncio.futures"."_convert_future_exc";
    queue_empty = "queue"."Empty";
}

table! {
    /// What TLS uses of the `ssl` module, which an interpreter may be built without.
    TlsImports:
    memory_bio = "ssl"."MemoryBIO";
    ssl_object = "ssl"."SSLObject";
    ssl_error = "ssl"."SSLError";
    certificate_error = "ssl"."CertificateError";
    wants_to_read = "ssl"."SSLWantReadError";
    syscall_error = "ssl"."SSLSyscallError";
    native = "_ssl"."_SSLSocket";
}

table! {
    /// The classes of aioxide's reports, which the package defines after it has loaded this module.
    ReportImports:
    cancel_request = "aioxide.reports"."CancelRequest";
    site = "aioxide.reports"."Site";
}

static REPORT_IMPORTS: PyOnceLock<ReportImports> = PyOnceLock::new();

/// The table of reports, loaded when it is asked for first.
pub fn report_imports(py: Python<'_>) -> PyResult<&'static ReportImports> {
    REPORT_IMPORTS.get_or_try_init(py, || ReportImports::load(py))
}

static TLS_IMPORTS: PyOnceLock<TlsImports> = PyOnceLock::new();

/// The table of TLS, loaded when it is asked for first.
pub fn tls_imports(py: Python<'_>) -> PyResult<&'static TlsImports> {
    TLS_IMPORTS.get_or_try_init(py, || TlsImports::load(py))
}

static IMPORTS: PyOnceLock<Imports> = PyOnceLock::new();

/// Loads the table; called when the module is built.
pub fn load(py: Python<'_>) -> PyResult<()> {
    IMPORTS.get_or_try_init(py, || Imports::load(py)).map(drop)
}

/// The table.
#[inline]
#[allow(clippy::expect_used)]
pub fn imports(py: Python<'_>) -> &'static Imports {
    IMPORTS.get(py).expect("the module's start loads the table before any class can be used")
}
