//! Runs a backend with slow programs on a thread of its own, so that no event loop waits for it. Waiting grants share
//! one transaction. Calls whose result the caller needs immediately, such as a load, wait for the thread.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{
    ActiveGrant, Backend, FinishedRequest, FirewallError, FirewallRequest, GateSpec, RequestId, RequestResult,
};
use crate::os::clock;
use crate::os::worker::Worker;
use spa_knock_core::auth::Grant;
use spa_knock_core::knock::BootTime;

/// How many requests can wait at a time; more are refused.
const WAITING_MAX: usize = 1_000;
/// How many requests share a transaction.
const BATCH_MAX: usize = 256;

/// The backend, its thread, and the waiting requests.
pub struct BackgroundFirewall<B> {
    backend: Arc<Mutex<B>>,
    worker: Worker<JobReport>,
    queue: VecDeque<FirewallJob>,
    next: u64,
    ended: Vec<FinishedRequest>,
    /// State after the last job.
    state: BackendSnapshot,
    /// Whether an upkeep job is queued or running.
    upkeep: bool,
    upkeep_result: Result<(), FirewallError>,
    modified: bool,
    heartbeat_result: Result<(), FirewallError>,
}

enum FirewallJob {
    Request(RequestId, FirewallRequest),
    /// Closes expired grants and looks for changes by other programs.
    Upkeep,
    Heartbeat,
}

/// Outcome of a job.
enum JobReport {
    Requests(Vec<FinishedRequest>, BackendSnapshot),
    Upkeep { closed: Result<(), FirewallError>, modified: bool, state: BackendSnapshot },
    Heartbeat(Result<(), FirewallError>),
}

/// State of the backend at one time.
struct BackendSnapshot {
    live: Vec<ActiveGrant>,
    /// When `live` was read.
    at: BootTime,
    /// When upkeep is due next.
    due: Option<BootTime>,
}

impl BackendSnapshot {
    fn of(backend: &impl Backend) -> Self {
        let at = clock::boot();
        Self { live: backend.live(), at, due: backend.time_to_deadline().map(|left| at.plus(left)) }
    }
}

impl<B: Backend + Send + 'static> BackgroundFirewall<B> {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(backend: B) -> Result<Self, FirewallError> {
        let worker = Worker::start()
            .map_err(|error| FirewallError::Other(format!("cannot start a thread: {error}")))?;
        let state = BackendSnapshot::of(&backend);
        Ok(Self {
            backend: Arc::new(Mutex::new(backend)),
            worker,
            queue: VecDeque::new(),
            next: 0,
            ended: Vec::new(),
            state,
            upkeep: false,
            upkeep_result: Ok(()),
            modified: false,
            heartbeat_result: Ok(()),
        })
    }

    /// Calls the backend after the thread's current job, before all queued ones.
    fn call<T>(&mut self, act: impl FnOnce(&mut B) -> T) -> T {
        let mut backend = lock(&self.backend);
        let result = act(&mut backend);
        self.state = BackendSnapshot::of(&*backend);
        drop(backend);
        result
    }

    /// Hands the next job to an idle thread. Consecutive grants at the front of the queue become one job.
    fn start_next(&mut self) {
        if !self.worker.is_idle() {
            return;
        }
        let backend = Arc::clone(&self.backend);
        let grants = self.queue.iter().take_while(|job| job.is_grant()).take(BATCH_MAX).count();
        if grants > 0 {
            let batch: Vec<FirewallJob> = self.queue.drain(..grants).collect();
            return self.worker.submit(move || apply_all(&mut *lock(&backend), batch));
        }
        match self.queue.pop_front() {
            Some(FirewallJob::Request(id, request)) => self.worker.submit(move || {
                let mut backend = lock(&backend);
                let outcome = apply(&mut *backend, &request);
                JobReport::Requests(
                    vec![FinishedRequest { id, request, outcome }],
                    BackendSnapshot::of(&*backend),
                )
            }),
            Some(FirewallJob::Upkeep) => self.worker.submit(move || {
                let mut backend = lock(&backend);
                let closed = backend.expire();
                JobReport::Upkeep {
                    closed,
                    modified: backend.modified_externally(),
                    state: BackendSnapshot::of(&*backend),
                }
            }),
            Some(FirewallJob::Heartbeat) => {
                self.worker.submit(move || JobReport::Heartbeat(lock(&backend).heartbeat()))
            }
            None => {}
        }
    }

    fn apply_report(&mut self, report: JobReport) {
        match report {
            JobReport::Requests(ended, state) => {
                self.ended.extend(ended);
                self.state = state;
            }
            JobReport::Upkeep { closed, modified, state } => {
                self.upkeep = false;
                self.upkeep_result = closed;
                self.modified |= modified;
                self.state = state;
            }
            JobReport::Heartbeat(outcome) => self.heartbeat_result = outcome,
        }
    }
}

impl FirewallJob {
    const fn is_grant(&self) -> bool {
        matches!(self, Self::Request(_, FirewallRequest::Grant(_)))
    }
}

/// A panic in a job is a bug of its own; the backend stays in use.
fn lock<B>(backend: &Mutex<B>) -> MutexGuard<'_, B> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply(backend: &mut impl Backend, request: &FirewallRequest) -> RequestResult {
    match request {
        FirewallRequest::Grant(grants) => backend.grant(grants).map(|()| Vec::new()),
        FirewallRequest::Close(owner) => backend.close(&|live| owner.covers(live)),
    }
}

fn apply_all(backend: &mut impl Backend, jobs: Vec<FirewallJob>) -> JobReport {
    let requests: Vec<(RequestId, FirewallRequest)> = jobs
        .into_iter()
        .filter_map(|job| match job {
            FirewallJob::Request(id, request) => Some((id, request)),
            FirewallJob::Upkeep | FirewallJob::Heartbeat => None,
        })
        .collect();
    let grants = |(_, request): &'_ (RequestId, FirewallRequest)| match request {
        FirewallRequest::Grant(grants) => grants.clone(),
        FirewallRequest::Close(_) => Vec::new(),
    };
    let lists: Vec<Vec<Grant>> = requests.iter().map(grants).collect();
    let outcomes = backend.grant_all(&lists);
    let ended = requests.into_iter().zip(outcomes);
    let ended = ended.map(|((id, request), outcome)| FinishedRequest {
        id,
        request,
        outcome: outcome.map(|()| Vec::new()),
    });
    JobReport::Requests(ended.collect(), BackendSnapshot::of(backend))
}

impl<B: Backend + Send + 'static> Backend for BackgroundFirewall<B> {
    fn load(&mut self, gate: &GateSpec) -> Result<(), FirewallError> {
        self.call(|backend| backend.load(gate))
    }

    fn grant(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        self.call(|backend| backend.grant(grants))
    }

    fn grant_all(&mut self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
        self.call(|backend| backend.grant_all(lists))
    }

    /// Runs after all queued requests, so that it also closes what they open.
    fn close(&mut self, which: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError> {
        self.settle();
        self.call(|backend| backend.close(which))
    }

    fn live(&self) -> Vec<ActiveGrant> {
        let passed = clock::boot().since(self.state.at);
        let live = self.state.live.iter().filter(|live| live.left > passed);
        live.map(|live| ActiveGrant { left: live.left.saturating_sub(passed), ..live.clone() }).collect()
    }

    fn heartbeat(&mut self) -> Result<(), FirewallError> {
        if !self.queue.iter().any(|job| matches!(job, FirewallJob::Heartbeat)) {
            self.queue.push_front(FirewallJob::Heartbeat);
        }
        std::mem::replace(&mut self.heartbeat_result, Ok(()))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.worker.descriptor())
    }

    fn modified_externally(&mut self) -> bool {
        std::mem::take(&mut self.modified)
    }

    fn remove(&mut self) -> Result<(), FirewallError> {
        self.settle();
        self.call(Backend::remove)
    }

    fn time_to_deadline(&self) -> Option<Duration> {
        if self.modified || self.upkeep_result.is_err() {
            return Some(Duration::ZERO);
        }
        // While upkeep is queued, the descriptor signals its end.
        let due = self.state.due.filter(|_| !self.upkeep);
        due.map(|due| due.since(clock::boot()))
    }

    fn expire(&mut self) -> Result<(), FirewallError> {
        // A second job would find nothing more to do.
        if !self.upkeep && self.time_to_deadline().is_some_and(|left| left.is_zero()) {
            self.upkeep = true;
            // Before waiting grants: expired ones must not stay open.
            self.queue.push_front(FirewallJob::Upkeep);
        }
        std::mem::replace(&mut self.upkeep_result, Ok(()))
    }

    fn kernel_closes(&self) -> bool {
        lock(&self.backend).kernel_closes()
    }

    fn suspend(&mut self) -> Result<(), FirewallError> {
        self.settle();
        self.call(Backend::suspend)
    }

    fn queue(&mut self, request: &FirewallRequest) -> Option<Result<RequestId, FirewallError>> {
        if self.queue.len() >= WAITING_MAX {
            return Some(Err(FirewallError::Other(format!("{WAITING_MAX} changes are already waiting"))));
        }
        let id = RequestId(self.next);
        self.next = self.next.wrapping_add(1);
        self.queue.push_back(FirewallJob::Request(id, request.clone()));
        Some(Ok(id))
    }

    fn ended(&mut self) -> Vec<FinishedRequest> {
        for report in self.worker.finished() {
            self.apply_report(report);
        }
        self.start_next();
        std::mem::take(&mut self.ended)
    }

    fn settle(&mut self) {
        loop {
            self.start_next();
            if self.worker.is_idle() {
                return;
            }
            for report in self.worker.settle() {
                self.apply_report(report);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::firewall::GrantOwner;

    /// A backend that waits for a token before each call, and records the calls.
    struct SlowBackend {
        tokens: Receiver<()>,
        calls: Arc<Mutex<Vec<String>>>,
    }

    impl SlowBackend {
        fn call(&self, what: String) {
            self.tokens.recv().unwrap();
            self.calls.lock().unwrap().push(what);
        }
    }

    impl Backend for SlowBackend {
        fn load(&mut self, _: &GateSpec) -> Result<(), FirewallError> {
            Ok(())
        }

        fn grant(&mut self, _: &[Grant]) -> Result<(), FirewallError> {
            Ok(())
        }

        fn grant_all(&mut self, lists: &[Vec<Grant>]) -> Vec<Result<(), FirewallError>> {
            self.call(format!("grant {}", lists.len()));
            lists.iter().map(|_| Ok(())).collect()
        }

        fn close(&mut self, _: &dyn Fn(&ActiveGrant) -> bool) -> Result<Vec<ActiveGrant>, FirewallError> {
            self.call("close".to_owned());
            Ok(Vec::new())
        }

        fn live(&self) -> Vec<ActiveGrant> {
            Vec::new()
        }

        fn heartbeat(&mut self) -> Result<(), FirewallError> {
            self.call("heartbeat".to_owned());
            Err(FirewallError::Gone)
        }

        fn time_to_deadline(&self) -> Option<Duration> {
            Some(Duration::ZERO)
        }

        fn expire(&mut self) -> Result<(), FirewallError> {
            self.call("upkeep".to_owned());
            Err(FirewallError::Gone)
        }

        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn modified_externally(&mut self) -> bool {
            false
        }

        fn remove(&mut self) -> Result<(), FirewallError> {
            Ok(())
        }
    }

    fn slow() -> (BackgroundFirewall<SlowBackend>, Sender<()>, Arc<Mutex<Vec<String>>>) {
        let (sender, tokens) = channel();
        let calls = Arc::new(Mutex::new(Vec::new()));
        (BackgroundFirewall::new(SlowBackend { tokens, calls: Arc::clone(&calls) }).unwrap(), sender, calls)
    }

    fn close() -> FirewallRequest {
        FirewallRequest::Close(GrantOwner {
            client: "laptop".parse().unwrap(),
            action: "open-ssh".parse().unwrap(),
        })
    }

    #[test]
    fn waiting_grants_share_a_transaction_and_keep_their_order_with_a_close() {
        let (mut background, tokens, calls) = slow();
        let mut queue = |request: &FirewallRequest| background.queue(request).unwrap().unwrap();
        let grant = || FirewallRequest::Grant(Vec::new());
        let ids = [grant(), grant(), grant(), close(), grant()].map(|request| queue(&request));
        (0..3).for_each(|_| tokens.send(()).unwrap());
        background.settle();
        assert_eq!(*calls.lock().unwrap(), ["grant 3", "close", "grant 1"]);
        let ended: Vec<RequestId> = background.ended().iter().map(|ended| ended.id).collect();
        assert_eq!(ended, ids);
    }

    #[test]
    fn a_caller_does_not_wait_and_requests_queued_in_the_meantime_become_one_batch() {
        let (mut background, tokens, calls) = slow();
        let mut ended = 0;
        background.queue(&FirewallRequest::Grant(Vec::new())).unwrap().unwrap();
        ended += background.ended().len();
        // The thread is working on the first request and waits for a token.
        for _ in 0..50 {
            background.queue(&FirewallRequest::Grant(Vec::new())).unwrap().unwrap();
            ended += background.ended().len();
        }
        assert_eq!((ended, background.live().len()), (0, 0));
        (0..2).for_each(|_| tokens.send(()).unwrap());
        background.settle();
        assert_eq!(background.ended().len(), 51);
        assert_eq!(*calls.lock().unwrap(), ["grant 1", "grant 50"]);
    }

    #[test]
    fn upkeep_is_queued_once_however_often_the_loop_turns() {
        let (mut background, tokens, calls) = slow();
        assert!(background.heartbeat().is_ok());
        tokens.send(()).unwrap();
        background.settle();
        background.queue(&FirewallRequest::Grant(Vec::new())).unwrap().unwrap();
        assert!(background.ended().is_empty());
        // The thread is working on that request.
        for _ in 0..50 {
            assert!(background.expire().is_ok());
            assert!(background.ended().is_empty());
        }
        (0..60).for_each(|_| tokens.send(()).unwrap());
        background.settle();
        assert_eq!(*calls.lock().unwrap(), ["heartbeat", "grant 1", "upkeep"]);
        assert!(
            background.heartbeat().is_err() && background.expire().is_err(),
            "errors are returned by the next call"
        );
    }

    #[test]
    fn a_request_beyond_the_queue_limit_is_refused() {
        let (mut background, tokens, _) = slow();
        for _ in 0..WAITING_MAX {
            assert!(background.queue(&FirewallRequest::Grant(Vec::new())).unwrap().is_ok());
        }
        assert!(background.queue(&FirewallRequest::Grant(Vec::new())).unwrap().is_err());
        (0..4).for_each(|_| tokens.send(()).unwrap());
        background.settle();
        assert_eq!(background.ended().len(), WAITING_MAX);
    }
}
