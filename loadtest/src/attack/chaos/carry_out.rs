//! Attacks carried out at their moments, and counted.

use std::time::Duration;

use crate::clock::Clock;
use crate::fault::Fault;
use crate::generator::Burst;
use crate::load::Load;
use crate::progress::ProgressView;
use crate::stage::Stage;
use crate::stage::disk::{Filler, SmallDisk};
use rustix::process::Signal;

use super::AttackError;
use super::schedule::{Action, Moment, Victim};

const TICK: Duration = Duration::from_millis(10);

/// What was done. Kills count only while there was load, and something to kill.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Kills of the gateway.
    pub(super) gateway_kills: u32,
    /// Kills of ClickHouse.
    pub(super) engine_kills: u32,
    /// Stops of the gateway.
    pub(super) gateway_stops: u32,
    /// Stops of ClickHouse.
    pub(super) engine_stops: u32,
    /// Spans in which the proxy misbehaved, resets included.
    pub(super) faults: u32,
    /// Spans in which the disk was full.
    pub(super) fills: u32,
    /// Kills of the gateway while it was.
    pub(super) full_kills: u32,
    /// Starts of the gateway that were watched until it served.
    pub(super) gateway_starts: u32,
    /// The slowest of them, milliseconds.
    pub(super) slowest_start_ms: u64,
}

/// Attacks under way.
pub(super) struct Attacks<'a> {
    stage: &'a mut Stage,
    disk: Option<&'a SmallDisk>,
    load: &'a Load,
    burst: &'a mut Burst,
    view: &'a mut ProgressView,
    clock: Clock,
    filler: Option<Filler>,
    /// When the gateway was started that does not serve yet.
    starting_ns: Option<u64>,
    /// ClickHouse was killed and is to stay dead for now.
    engine_is_down: bool,
    tally: Tally,
}

impl<'a> Attacks<'a> {
    pub(super) fn new(
        stage: &'a mut Stage,
        disk: Option<&'a SmallDisk>,
        load: &'a Load,
        burst: &'a mut Burst,
        view: &'a mut ProgressView,
    ) -> Attacks<'a> {
        let (clock, tally) = (Clock::start(), Tally::default());
        let (filler, starting_ns, engine_is_down) = (None, None, false);
        Attacks {
            stage,
            disk,
            load,
            burst,
            view,
            clock,
            filler,
            starting_ns,
            engine_is_down,
            tally,
        }
    }

    /// What was done so far.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Carries out every action at its moment, or as soon as the one before is done.
    pub(super) async fn carry_out(&mut self, moments: &[Moment]) -> Result<(), AttackError> {
        let began_ns = self.clock.now_ns();
        for (at, action) in moments {
            let due_ns = began_ns + at.as_nanos() as u64;
            self.pause(Duration::from_nanos(due_ns.saturating_sub(self.clock.now_ns()))).await?;
            if self.load.is_finished() {
                // An attack without load proves nothing.
                return Ok(());
            }
            self.act(*action).await?;
        }
        Ok(())
    }

    /// Lets time pass.
    pub(super) async fn pause(&mut self, length: Duration) -> Result<(), AttackError> {
        let until_ns = self.clock.now_ns() + length.as_nanos() as u64;
        loop {
            self.look().await?;
            let left_ns = until_ns.saturating_sub(self.clock.now_ns());
            if left_ns == 0 {
                return Ok(());
            }
            tokio::time::sleep(TICK.min(Duration::from_nanos(left_ns))).await;
        }
    }

    /// Undoes what attacks have left behind.
    pub(super) async fn end(&mut self) -> Result<(), AttackError> {
        self.act(Action::Fault(Fault::Pass)).await?;
        self.act(Action::Free).await?;
        for victim in [Victim::Engine, Victim::Gateway] {
            self.act(Action::Continue(victim)).await?;
            self.act(Action::Start(victim)).await?;
        }
        Ok(())
    }

    async fn act(&mut self, action: Action) -> Result<(), AttackError> {
        let Tally { gateway_kills, engine_kills, gateway_stops, engine_stops, .. } =
            &mut self.tally;
        match action {
            Action::Kill(Victim::Gateway) => {
                let gateway = &mut self.stage.gateway;
                let killed =
                    gateway.is_running() && self.burst.strike(async || gateway.kill().await).await;
                *gateway_kills += u32::from(killed);
                self.starting_ns = None;
            }
            Action::Kill(Victim::Engine) => {
                *engine_kills += u32::from(self.stage.engine.kill().await);
                self.engine_is_down = true;
            }
            Action::Start(Victim::Gateway) => {
                if !self.stage.gateway.is_running() {
                    self.starting_ns = Some(self.clock.now_ns());
                    self.stage.gateway.start()?;
                }
            }
            Action::Start(Victim::Engine) => {
                self.engine_is_down = false;
                self.stage.engine.start()?;
            }
            Action::Stop(Victim::Gateway) => {
                *gateway_stops += u32::from(self.stage.gateway.signal(Signal::STOP));
                // A start that was stopped says nothing about starts.
                self.starting_ns = None;
            }
            Action::Stop(Victim::Engine) => {
                *engine_stops += u32::from(self.stage.engine.signal(Signal::STOP));
            }
            Action::Continue(Victim::Gateway) => {
                self.stage.gateway.signal(Signal::CONT);
            }
            Action::Continue(Victim::Engine) => {
                self.stage.engine.signal(Signal::CONT);
            }
            Action::Fault(fault) => {
                self.tally.faults += u32::from(fault != Fault::Pass);
                self.stage.faults.set(fault);
            }
            Action::Reset => {
                self.tally.faults += 1;
                self.stage.faults.reset();
            }
            Action::Fill => {
                if let Some(disk) = self.disk {
                    let unfilled = |source| AttackError::Disk { what: "fill the disk", source };
                    self.filler = Some(disk.fill().map_err(unfilled)?);
                    self.tally.fills += 1;
                }
            }
            Action::Restart => {
                if self.filler.is_some() {
                    self.stage.gateway.kill().await;
                    self.starting_ns = Some(self.clock.now_ns());
                    self.stage.gateway.start()?;
                    self.tally.full_kills += 1;
                }
            }
            Action::Free => self.filler = None,
        }
        Ok(())
    }

    /// What is looked after between attacks: the disk stays full, a gateway that starts is timed,
    /// ClickHouse is started again when it aborted, and whoever watches sees something.
    async fn look(&mut self) -> Result<(), AttackError> {
        if let Some(filler) = &mut self.filler {
            let unfilled = |source| AttackError::Disk { what: "fill the disk", source };
            filler.top_up().map_err(unfilled)?;
        }
        if !self.engine_is_down {
            self.stage.engine.start()?;
        }
        if let Some(started_ns) = self.starting_ns
            && tokio::net::TcpStream::connect(self.stage.proxy_address()).await.is_ok()
        {
            let took_ms = (self.clock.now_ns() - started_ns) / 1_000_000;
            self.tally.gateway_starts += 1;
            self.tally.slowest_start_ms = self.tally.slowest_start_ms.max(took_ms);
            self.starting_ns = None;
        }
        let Tally { gateway_kills, engine_kills, .. } = self.tally;
        let progress = self.load.progress();
        self.view.noted(&progress, &format!("{gateway_kills}+{engine_kills} kills"));
        Ok(())
    }
}
