//! Every Python object the runtime needs, imported once, in one table.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

macro_rules! table {
    ($($(#[$attribute:meta])* $field:ident = $module:literal . $name:literal;)*) => {
        /// What the runtime uses of Python's standard library.
        #[allow(missing_docs)]
        pub struct Imports { $($(#[$attribute])* pub $field: Py<PyAny>,)* }

        impl Imports {
            fn load(py: Python<'_>) -> PyResult<Self> {
                Ok(Imports { $($(#[$attribute])*
                    $field: py.import($module)?.getattr($name)?.unbind(),)* })
            }
        }
    };
}

table! {
    cancelled_error = "asyncio.exceptions"."CancelledError";
    invalid_state_error = "asyncio.exceptions"."InvalidStateError";
    future = "asyncio"."Future";
    task = "asyncio"."Task";
    handle = "asyncio"."Handle";
    timer_handle = "asyncio"."TimerHandle";
    transport = "asyncio"."Transport";
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
    socket = "socket"."socket";
    transport_socket = "asyncio.trsock"."TransportSocket";
    buffered_protocol = "asyncio"."BufferedProtocol";
    warn = "warnings"."warn";
    get_ident = "threading"."get_ident";
    concurrent_future = "concurrent.futures"."Future";
    convert_future_error = "asyncio.futures"."_convert_future_exc";
    queue_empty = "queue"."Empty";
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
