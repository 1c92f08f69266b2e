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
        if let Some(vmodel) = &self.subject.vmodel {
            // Looked up each time: the vmodel may have moved while the request was held.
            let (draw, headers) = (&mut self.draw, &self.headers);
            let table = &self.worker.shared.table;
            let model = match headers.get(MM_VERSION) {
                None => table.model_of(vmodel, || *draw.get_or_insert_with(|| naming::draw(vmodel, headers))),
                Some(version) => {
                    let version = String::from_utf8_lossy(version.as_bytes());
                    table.version_of(vmodel, &version).map_err(|NoSuchVersion| {
                        Status::new(Code::NotFound, format!("vmodel {vmodel} has no version {version}"))
                    })?
                }
            };
            match model {
                Some(model) => self.subject.model = model.to_string(),
                None => {
                    self.subject.model.clear();
                    return Ok(Choice::Miss);
                }
            }
        }
        Ok(resolve::choose(self.shared(), &self.subject.model, self.balanced))
    }
}
