//! What a loop holds: the ready queue, timers, sources, tasks, and the kernel's descriptors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use engine::mailbox::Mailbox;
use engine::poller::Poller;
use engine::pulse::Pulse;
use engine::timers::Timers;
use engine::workers::Workers;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyList;
use slab::Slab;

use super::callback::{Callback, Timer};
use super::mailbox::Posted;
use super::metrics::Tally;
use super::source::Sources;
use super::{BaseEventLoop, clock};
use crate::blocking;
use crate::cpython::collector;
use crate::cpython::context::Snapshots;
use crate::cpython::version;
use crate::errors;
use crate::handles::Handle;
use crate::tasks::Task;
use crate::watchdog;

/// Turns that run short callbacks only share one exact reading of the clock.
const TURNS_BETWEEN_CLOCKS: u32 = 8;

/// How long closing waits for threads that are waking the loop, so that its descriptors are closed
/// when `close()` returns; they need microseconds.
const MOMENT: Duration = Duration::from_millis(100);

/// How often this process was forked; a loop that remembers another number is the parent's.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in the child after every fork (`os.register_at_fork`).
pub fn note_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    blocking::forget_all();
    watchdog::note_fork();
}

/// The loop's own descriptors, shared with other threads through `Arc`.
pub struct Kernel {
    /// What the kernel says is ready.
    pub poller: Poller,
    /// What other threads post.
    pub mailbox: Mailbox<Posted>,
    /// How the watchdog sees that the loop comes on.
    pub pulse: Arc<Pulse>,
}

/// The questions that are asked on every call, in one small copy.
#[derive(Clone, Copy, Default)]
pub struct Flags {
    /// `close()` was called.
    pub closed: bool,
    /// Debug mode.
    pub debug: bool,
    /// Inside `run_forever`.
    pub running: bool,
    /// Somebody put another `call_soon` on the loop.
    pub call_soon_replaced: bool,
    /// Somebody put another `call_at` on the loop.
    pub call_at_replaced: bool,
    /// Somebody put another `time` on the loop.
    pub time_replaced: bool,
    /// The loop was made before a fork, in the parent.
    pub foreign: bool,
    /// Steps are not counted: only to measure what counting costs (`benches/counting.py`).
    pub uncounted: bool,
    /// The time that steps take is not measured.
    pub untimed: bool,
    /// An exception that nobody retrieves is to be reported soon.
    pub reports_soon: bool,
}

impl Flags {
    /// Refuses a loop that is closed, or that a forked child inherited.
    #[inline]
    pub fn check(self) -> PyResult<()> {
        if self.closed || self.foreign { Err(self.refusal()) } else { Ok(()) }
    }

    /// Whether somebody looks at callbacks: debug mode, or a method of his own on the loop.
    #[inline]
    pub fn is_watched(self) -> bool {
        self.debug || self.call_soon_replaced || self.call_at_replaced || self.time_replaced
    }

    #[cold]
    fn refusal(self) -> PyErr {
        if self.closed { errors::closed_loop() } else { errors::parents_loop() }
    }
}

/// What `asyncio.current_task` would find for this loop.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Current {
    /// No task.
    #[default]
    Nobody,
    /// A task whose step is over: the next step overwrites it, anything else clears it first.
    Stale,
    /// The task at this address is stepping.
    Stepping(usize),
}

/// The mutable part of a loop.
pub struct LoopState {
    /// The questions asked on every call.
    pub flags: Flags,
    /// What runs next, in order.
    pub ready: VecDeque<Callback>,
    /// `call_later`, `call_at` and timeouts.
    pub timers: Timers<Timer>,
    /// What the kernel may report.
    pub sources: Sources,
    /// Every task that is not done: the loop owns them.
    pub tasks: Slab<Py<Task>>,
    /// Closed loops have none.
    pub kernel: Option<Arc<Kernel>>,
    /// `set_task_factory`.
    pub task_factory: Option<Py<PyAny>>,
    /// `stop()` was called.
    pub stopping: bool,
    /// The thread that runs the loop (`threading.get_ident`).
    pub thread: Option<u64>,
    /// The last reading of the clock, nanoseconds.
    pub now: u64,
    /// When the kernel was asked last, and how much ran since.
    pub polled_at: u64,
    /// Callbacks run since the kernel was asked.
    pub callbacks_since_poll: usize,
    /// Turns since the clock was read exactly, and what the coarse clock said then.
    turns_since_clock: u32,
    coarse: u64,
    /// Who steps.
    pub current: Current,
    /// The handle that runs, in debug mode.
    pub current_handle: Option<Py<Handle>>,
    /// The contexts of callbacks.
    pub snapshots: Snapshots,
    /// Where reads land before they become `bytes`; empty until the first.
    pub scratch: Vec<u8>,
    /// Threads for calls that block, started on first use.
    pub workers: Option<Arc<Workers>>,
    /// What the loop counts of itself.
    pub tally: Tally,
    /// How often the process had been forked when the loop was made.
    born: u32,
}

impl LoopState {
    /// Opens the kernel's side of a new loop.
    pub fn open() -> PyResult<Self> {
        let kernel = (|| {
            let (poller, mailbox) = (Poller::new()?, Mailbox::new()?);
            let pulse = Arc::new(Pulse::default());
            pulse.set_threshold(watchdog::usual_threshold());
            Ok(Kernel { poller, mailbox, pulse })
        })()
        .map_err(|error: std::io::Error| errors::from_io(&error))?;
        let mut sources = Sources::default();
        sources
            .watch_mailbox(&kernel.poller, &kernel.mailbox)
            .map_err(|error| errors::from_io(&error))?;
        Ok(LoopState {
            flags: Flags::default(),
            ready: VecDeque::new(),
            timers: Timers::new(),
            sources,
            tasks: Slab::new(),
            kernel: Some(Arc::new(kernel)),
            task_factory: None,
            stopping: false,
            thread: None,
            now: clock::nanoseconds(),
            polled_at: 0,
            callbacks_since_poll: 0,
            turns_since_clock: 0,
            coarse: 0,
            current: Current::Nobody,
            current_handle: None,
            snapshots: Snapshots::default(),
            scratch: Vec::new(),
            workers: None,
            tally: Tally::default(),
            born: FORKS.load(Ordering::Relaxed),
        })
    }

    /// Whether the loop was made in another process (before a fork).
    pub fn is_foreign_process(&self) -> bool {
        self.born != FORKS.load(Ordering::Relaxed)
    }

    /// Shows every Python object to the collector; a loop that runs is alive, and so is all it
    /// holds, so its thousands of callbacks and tasks need no visit.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.flags.running {
            return Ok(());
        }
        self.ready.iter().try_for_each(|callback| callback.traverse(visit))?;
        self.timers.iter().try_for_each(|timer| timer.traverse(visit))?;
        self.tasks.iter().try_for_each(|(_, task)| visit.call(task))?;
        self.sources.traverse(visit)?;
        self.snapshots.traverse(visit)?;
        visit.call(&self.task_factory)
    }

    /// Shows handles that the program keeps to the collector: the loop will not do it any more.
    fn show_kept_handles(&self) {
        for timer in self.timers.iter() {
            if let Timer::Call(handle) = timer {
                collector::show_if_kept(handle);
            }
        }
        for callback in &self.ready {
            if let Callback::Call(handle) = callback {
                collector::show_if_kept(handle);
            }
        }
    }

    /// Takes every Python object out, to be dropped by the caller once the state is closed.
    pub fn take_objects(&mut self) -> impl Sized + use<> {
        (
            std::mem::take(&mut self.ready),
            self.timers.clear(),
            std::mem::take(&mut self.tasks),
            std::mem::take(&mut self.sources),
            std::mem::take(&mut self.snapshots),
            self.task_factory.take(),
        )
    }
}

impl BaseEventLoop {
    /// The flags, copied.
    #[inline]
    pub fn flags(&self, py: Python<'_>) -> Flags {
        self.state.with(py, |state| Flags { foreign: state.is_foreign_process(), ..state.flags })
    }

    /// Debug mode.
    #[inline]
    pub fn is_debug(&self, py: Python<'_>) -> bool {
        self.flags(py).debug
    }

    /// `RuntimeError('Event loop is closed')` when it is.
    pub fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        self.flags(py).check()
    }

    /// Queues a callback; returns the loop's last reading of the clock.
    #[inline]
    pub fn push(&self, py: Python<'_>, callback: Callback) -> u64 {
        self.state.with(py, |state| {
            state.ready.push_back(callback);
            state.now
        })
    }

    /// The last reading of the clock.
    #[inline]
    pub fn now(&self, py: Python<'_>) -> u64 {
        self.state.with(py, |state| state.now)
    }

    /// Reads the clock after callbacks that are no steps. A reading costs a tenth of such a turn,
    /// so while the kernel's coarse clock stands still it is made every few callbacks only.
    #[inline]
    pub fn tick_sometimes(&self, py: Python<'_>) {
        let coarse = clock::coarse_nanoseconds();
        let due = self.state.with(py, |state| {
            state.turns_since_clock += 1;
            let due = state.turns_since_clock >= TURNS_BETWEEN_CLOCKS || coarse != state.coarse;
            if due {
                state.turns_since_clock = 0;
                state.coarse = coarse;
            }
            due
        });
        if due {
            self.tick(py);
        }
    }

    /// Reads the clock: the end of one step is the start of the next.
    #[inline]
    pub fn tick(&self, py: Python<'_>) -> u64 {
        let now = clock::nanoseconds();
        self.state.with(py, |state| state.now = now);
        now
    }

    /// Reads the clock when a step is over that began at `began`; returns how long it took.
    #[inline]
    pub fn tick_after_step(&self, py: Python<'_>, began: u64) -> u64 {
        let now = clock::nanoseconds();
        let busy = now.saturating_sub(began);
        self.state.with(py, |state| {
            state.now = now;
            state.tally.busy += busy;
        });
        busy
    }

    /// The descriptors of a loop that is open. A forked child gets none: it shares them with its
    /// parent, whose registrations it would change.
    pub fn kernel(&self, py: Python<'_>) -> PyResult<Arc<Kernel>> {
        if self.flags(py).foreign {
            return Err(errors::parents_loop());
        }
        self.state.with(py, |state| state.kernel.clone()).ok_or_else(errors::closed_loop)
    }

    /// Lends the scratch buffer, so that no state is borrowed while it is in use.
    #[inline]
    pub fn take_scratch(&self, py: Python<'_>) -> Vec<u8> {
        let scratch = self.state.with(py, |state| std::mem::take(&mut state.scratch));
        if scratch.is_empty() { vec![0; super::sockets::SCRATCH] } else { scratch }
    }

    /// Takes the scratch buffer back.
    #[inline]
    pub fn give_scratch(&self, py: Python<'_>, scratch: Vec<u8>) {
        self.state.with(py, |state| state.scratch = scratch);
    }

    /// `task` begins a step.
    #[inline]
    pub fn enter(
        &self,
        py: Python<'_>,
        this: &Bound<'_, BaseEventLoop>,
        task: &Bound<'_, Task>,
    ) -> PyResult<()> {
        let stepping = Current::Stepping(task.as_ptr() as usize);
        let before = self.state.with(py, |state| {
            state.tally.steps += 1;
            std::mem::replace(&mut state.current, stepping)
        });
        if matches!(before, Current::Stepping(_)) {
            self.state.with(py, |state| state.current = before);
            let other = version::current_task(this.as_any())?;
            return Err(pyo3::exceptions::PyRuntimeError::new_err(format!(
                "Cannot enter into task {} while another task {} is being executed.",
                errors::repr(task.as_any()),
                other.map_or_else(|| "None".to_owned(), |other| errors::repr(&other)),
            )));
        }
        version::set_current_task(this.as_any(), task.as_any())
    }

    /// The step is over; asyncio is told when somebody could look.
    #[inline]
    pub fn leave(&self, py: Python<'_>) {
        self.state.with(py, |state| state.current = Current::Stale);
    }

    /// Before code that is not a step runs: nobody is the current task.
    #[inline]
    pub fn clear_stale(this: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let stale = this.get().state.with(this.py(), |state| {
            let stale = state.current == Current::Stale;
            if stale {
                state.current = Current::Nobody;
            }
            stale
        });
        if stale { version::clear_current_task(this.as_any()) } else { Ok(()) }
    }

    /// An eager start interrupts the running step.
    pub fn suspend_current(&self, py: Python<'_>) -> Current {
        self.state.with(py, |state| std::mem::take(&mut state.current))
    }

    /// The eager start is over.
    pub fn resume_current(&self, py: Python<'_>, saved: Current) {
        self.state.with(py, |state| state.current = saved);
    }

    /// Whether `task` is the one that steps.
    pub fn is_stepping(&self, task: &Bound<'_, Task>) -> bool {
        let address = task.as_ptr() as usize;
        self.state.with(task.py(), |state| state.current == Current::Stepping(address))
    }

    /// The task that steps, if one does.
    pub fn stepping<'py>(&self, this: &Bound<'py, BaseEventLoop>) -> Option<Bound<'py, PyAny>> {
        let stepping =
            self.state.with(this.py(), |state| matches!(state.current, Current::Stepping(_)));
        if stepping { version::current_task(this.as_any()).ok().flatten() } else { None }
    }
}

/// `_ready`: a handle for each callback, a task for each step; what is the loop's own is left out.
pub fn ready_entries<'py>(
    event_loop: &BaseEventLoop,
    py: Python<'py>,
) -> PyResult<Bound<'py, PyList>> {
    let entries: Vec<Py<PyAny>> = event_loop.state.with(py, |state| {
        let shown = |callback: &Callback| match callback {
            Callback::Call(handle) | Callback::Fire(handle) => {
                Some(handle.clone_ref(py).into_any())
            }
            Callback::Step(task) => Some(task.clone_ref(py).into_any()),
            Callback::Begin(_)
            | Callback::End(_)
            | Callback::Deliver(_)
            | Callback::Follow(_)
            | Callback::Expire(_)
            | Callback::Ready(_) => None,
        };
        state.ready.iter().filter_map(shown).collect()
    });
    PyList::new(py, entries)
}

/// `_scheduled`: the timers, earliest first.
pub fn timer_entries<'py>(
    event_loop: &BaseEventLoop,
    py: Python<'py>,
) -> PyResult<Bound<'py, PyList>> {
    let timers: Vec<Timer> = event_loop
        .state
        .with(py, |state| state.timers.iter().map(|timer| timer.clone_ref(py)).collect());
    let handles = timers.iter().map(|timer| timer.shown(py)).collect::<PyResult<Vec<_>>>()?;
    let list = PyList::new(py, handles)?;
    list.sort()?;
    Ok(list)
}

/// `BaseEventLoop._shut`: closes descriptors, drops what was queued, returns unfinished tasks.
pub fn shut<'py>(event_loop: &Bound<'py, BaseEventLoop>) -> PyResult<Bound<'py, PyList>> {
    let py = event_loop.py();
    BaseEventLoop::clear_stale(event_loop)?;
    let tasks: Vec<Py<Task>> = event_loop.get().state.with(py, |state| {
        state.flags.closed = true;
        state.tasks.iter().map(|(_, task)| task.clone_ref(py)).collect()
    });
    let unfinished = PyList::new(py, tasks)?;
    let (objects, kernel, workers) = event_loop.get().state.with(py, |state| {
        state.show_kept_handles();
        (state.take_objects(), state.kernel.take(), state.workers.take())
    });
    if event_loop.get().flags(py).foreign {
        // A forked child. The threads are the parent's, and whichever of them held a lock when
        // the process was copied holds its copy for ever: nothing that locks is touched.
        std::mem::forget(workers);
        drop((objects, kernel));
        return Ok(unfinished);
    }
    if let Some(workers) = workers {
        blocking::dismiss(py, workers, Some(blocking::PATIENCE))?;
    }
    if let Some(kernel) = &kernel {
        drop(kernel.mailbox.close());
        // A thread that woke the loop a moment ago may be about to let go of it.
        let deadline = Instant::now() + MOMENT;
        while Arc::strong_count(kernel) > 1 && Instant::now() < deadline {
            py.detach(|| std::thread::sleep(MOMENT / 1000));
        }
    }
    drop((objects, kernel));
    Ok(unfinished)
}
