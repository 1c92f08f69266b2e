//! Where a call goes, by the routing table.

use crate::call::inference::{Call, refusal};
use crate::call::outcome::Outcome;
use crate::call::subject::Hop;
use crate::routing::naming;
use crate::routing::resolve::{self, Choice};
use crate::routing::table::NoSuchVersion;
use crate::wire::headers::MM_VERSION;
use crate::wire::status::{Code, Status};

impl Call {
    /// Looks in the routing table. On a hop only the local copy counts.
    pub fn route(&mut self) -> Result<Choice, Status> {
        if let Some(hopped) = &self.hopped {
            let hop = hopped.hop;
            return match (resolve::local(self.shared(), &self.subject.model, false), hop) {
                (Some(used), _) => Ok(Choice::Local(used)),
                (None, Hop::Load) => Ok(Choice::Miss),
                (None, Hop::Hit) => Err(refusal(Outcome::NotHere)),
            };
        }
        if self.subject.vmodel.is_some() {
            if let Some(choice) = self.route_to_fallback() {
                return Ok(choice);
            }
            self.leave_fallback();
        }
        if let Some(vmodel) = &self.subject.vmodel {
            // Looked up each time: the vmodel may have moved while the request was held.
            let (draw, headers) = (&mut self.draw, &self.headers);
            let table = &self.worker.shared.table;
            // Some: it is known now whether the vmodel has one.
            let mut shadow = None;
            let mut by_share = || {
                let named = table.model_of(vmodel, || *draw.get_or_insert_with(|| naming::draw(vmodel, headers)))?;
                shadow = Some(named.shadow);
                self.trial = named.trial;
                Some(named.model)
            };
            let model = match (headers.get(MM_VERSION), &mut self.version) {
                (None, None) => by_share(),
                (Some(version), _) => {
                    let version = String::from_utf8_lossy(version.as_bytes());
                    table.version_of(vmodel, &version).map_err(|NoSuchVersion| no_version(vmodel, &version))?
                }
                (None, Some(version)) => match table.version_of(vmodel, &version.name) {
                    Ok(found) => {
                        if found.is_some() {
                            version.take_out(&mut self.body);
                        }
                        found
                    }
                    Err(NoSuchVersion) if version.is_chosen() => return Err(no_version(vmodel, &version.name)),
                    // It stays in the message, for the runtime.
                    Err(NoSuchVersion) => by_share(),
                },
            };
            match model {
                Some(model) => {
                    self.subject.model = model.to_string();
                    if let Some(shadow) = shadow {
                        self.choose_shadow(shadow);
                    }
                }
                None => {
                    self.subject.model.clear();
                    return Ok(Choice::Miss);
                }
            }
        }
        let choice = resolve::choose(self.shared(), &self.subject.model, self.balanced);
        if matches!(choice, Choice::Miss) && self.subject.vmodel.is_some() {
            return Ok(self.fall_back_from_cold().unwrap_or(Choice::Miss));
        }
        Ok(choice)
    }
}

fn no_version(vmodel: &str, version: &str) -> Status {
    Status::new(Code::NotFound, format!("vmodel {vmodel} has no version {version}"))
}
