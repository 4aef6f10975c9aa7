//! What the gates would say of a request, without counting it.
//!
//! The very gates are asked that [`Gates::admit`] asks, in the same order. Not asked: those that count (how often, how much
//! at once), because to ask them is to be counted.

use http::Request;
use nearside_fleet::config::gates::Mode;

use super::{Gate, Gates, Judgement};
use crate::place::Seen;

/// What one gate says.
pub struct Said {
    /// The gate.
    pub gate: Gate,
    /// What it objects to, with the status of the refusal; `None`: nothing.
    pub objection: Option<(u16, String)>,
    /// Whether an objection is a refusal.
    pub enforces: bool,
    /// Whether it was asked at all.
    pub is_asked: bool,
}

impl Said {
    fn of(gate: Gate, mode: Mode, judgement: Judgement) -> Said {
        let objection = judgement.err().map(|finding| (finding.status.as_u16(), finding.why));
        Said { gate, objection, enforces: mode == Mode::Enforce, is_asked: true }
    }

    fn refuses(&self) -> bool {
        self.objection.is_some() && self.enforces
    }
}

/// Whether the next gate is asked.
fn goes_on(said: &mut Vec<Said>, gate: Gate, mode: Mode, judgement: Judgement) -> bool {
    let one = Said::of(gate, mode, judgement);
    let refuses = one.refuses();
    said.push(one);
    !refuses
}

impl Gates {
    /// Asks each of them, up to the first refusal. The request loses what was meant for gates alone, as it would.
    pub fn explain<B>(&self, request: &mut Request<B>, seen: &Seen<'_>) -> Vec<Said> {
        let mut said = Vec::new();
        self.explain_into(request, seen, &mut said);
        said
    }

    fn explain_into<B>(&self, request: &mut Request<B>, seen: &Seen<'_>, said: &mut Vec<Said>) {
        if let Some(gate) = &self.secret {
            if !goes_on(said, Gate::Secret, gate.acting.mode, gate.judge(request.headers())) {
                return;
            }
            gate.strip(request.headers_mut());
        }
        if let Some(gate) = &self.network
            && !goes_on(said, Gate::Network, gate.acting.mode, gate.judge(seen.client()))
        {
            return;
        }
        if let Some(gate) = &self.place
            && !goes_on(said, Gate::Place, gate.acting.mode, gate.judge(seen))
        {
            return;
        }
        for (gate, is_there) in
            [(Gate::Rate, self.rates.is_some()), (Gate::Concurrency, self.concurrency.is_some())]
        {
            said.extend(is_there.then_some(Said { gate, objection: None, enforces: false, is_asked: false }));
        }
        if let Some(gate) = &self.waf
            && !goes_on(said, Gate::Waf, gate.acting.mode, gate.judge(request.uri(), request.headers()))
        {
            return;
        }
        if let Some(gate) = &self.signed {
            if !goes_on(
                said,
                Gate::Signed,
                gate.acting.mode,
                gate.judge(request, seen.client(), super::unix_now()),
            ) {
                return;
            }
            gate.strip(request);
        }
        if let Some(gate) = &self.jwt {
            let (told, judgement) = match gate.judge(request) {
                Ok(told) => (told, Ok(())),
                Err(finding) => (super::jwt::Told::default(), Err(finding)),
            };
            if !goes_on(said, Gate::Jwt, gate.acting.mode, judgement) {
                return;
            }
            gate.strip(request, told);
        }
    }
}
