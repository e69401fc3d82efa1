//! The file of the flows is read again, and the flows are made what it says.

use super::Flows;
use crate::{
    Failure,
    arguments::{Configured, read_config},
};
use streamlink_core::Error;

impl Flows {
    /// Reads the file again, and makes the flows be what it says. Nothing changes if it has errors.
    pub(crate) async fn reload(&mut self) -> Result<(), Failure> {
        let file =
            self.config.clone().ok_or("there is no file to read again: the relay was started without --config")?;
        let mut wanted = Vec::new();
        for configured in read_config(&file)? {
            let name = configured.flow.name();
            let old = self.running.iter().find(|flow| flow.handle.name() == name);
            wanted.push(match old {
                Some(old) => old.with_generated_keys(configured)?,
                None => configured,
            });
        }
        let mut failures = Vec::new();
        // What leaves goes first, because its addresses may be wanted by what comes.
        let mut kept = Vec::new();
        for flow in std::mem::take(&mut self.running) {
            let name = flow.handle.name().to_owned();
            match wanted.iter().find(|new| new.flow.name() == name) {
                None => {
                    self.screen.line(&format!("{name}: is not in the file any more, and stops"));
                    flow.stop().await;
                }
                Some(new) => match flow.needs_restart(&new.flow) {
                    Some(member) => {
                        self.screen.line(&format!("{name}: restarts, because `{member}` cannot change while it runs"));
                        flow.stop().await;
                    }
                    None => kept.push(flow),
                },
            }
        }
        for flow in &mut kept {
            if let Some(new) = wanted.iter().find(|new| new.flow.name() == flow.handle.name()) {
                flow.remove_outputs(&new.flow, &self.screen, &mut failures).await;
                flow.change(new, &self.screen, &mut failures);
            }
        }
        self.running = kept;
        failures.extend(self.open(&wanted).await.into_iter().map(|refusal| refusal.text));
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
    }

    /// Opens the flows and outputs that differ from those of the file, in whatever order their addresses become free.
    async fn open(&mut self, wanted: &[Configured]) -> Vec<Refusal> {
        let mut refused = self.try_to_open(wanted).await;
        while refused.iter().any(|refusal| refusal.is_claimed) {
            let before = refused.len();
            refused = self.try_to_open(wanted).await;
            if refused.len() >= before {
                break;
            }
        }
        // Outputs that want each other's addresses leave them first.
        let stuck = refused.iter().filter(|refusal| refusal.is_claimed);
        let stuck: Vec<_> = stuck.filter_map(|refusal| Some((refusal.flow.clone(), refusal.output.clone()?))).collect();
        if stuck.len() < 2 {
            return refused;
        }
        let mut closed = Vec::new();
        for (flow, output) in stuck {
            let running = self.running.iter().find(|running| running.handle.name() == flow);
            let Some(running) = running.filter(|running| running.is_enabled(&output)) else { continue };
            // One that cannot be closed keeps its address, and the others are refused again.
            if running.handle.set_output_enabled(&output, false).await.is_ok() {
                closed.push((flow, output));
            }
        }
        refused = self.try_to_open(wanted).await;
        for refusal in &mut refused {
            let Some((flow, output)) = closed.iter().find(|closed| refusal.is_of(closed)) else { continue };
            let Some(running) = self.running.iter().find(|running| running.handle.name() == flow) else { continue };
            // It goes on as it was, unless another output has its address now.
            if let Err(error) = running.handle.set_output_enabled(output, true).await {
                refusal.text += &format!("; it stays closed: {error}");
            }
        }
        refused
    }

    /// Starts the flows that do not run, and adds and changes outputs. Returns what is refused.
    async fn try_to_open(&mut self, wanted: &[Configured]) -> Vec<Refusal> {
        let mut refused = Vec::new();
        for new in wanted {
            let name = new.flow.name();
            match self.running.iter_mut().find(|flow| flow.handle.name() == name) {
                Some(flow) => flow.change_outputs(&new.flow, &self.screen, &mut refused).await,
                None => {
                    if let Err(error) = self.start(new.clone()).await {
                        refused.push(Refusal::new(name, None, &error));
                    }
                }
            }
        }
        refused
    }
}

/// Flow or output of the file that could not be opened.
pub(super) struct Refusal {
    flow: String,
    output: Option<String>,
    /// True if another flow or output of this process has an address that it wants.
    is_claimed: bool,
    text: String,
}

impl Refusal {
    fn is_of(&self, (flow, output): &(String, String)) -> bool {
        self.flow == *flow && self.output.as_ref() == Some(output)
    }

    pub(super) fn new(flow: &str, output: Option<&str>, error: &Failure) -> Self {
        let is_claimed = matches!(error.downcast_ref(), Some(Error::Claimed(_)));
        let text = match output {
            Some(output) => format!("{flow}: output `{output}`: {error}"),
            None => format!("flow `{flow}`: {error}"),
        };
        Self { flow: flow.to_owned(), output: output.map(str::to_owned), is_claimed, text }
    }
}
