//! What several versions of the same bytes say, in one.

use ollamamax_proto::model::ModelVersion;

/// The first with what only the others say: parameters that it has not, texts where it has none, licences and no more. Those
/// with other bytes say nothing. `None` of none.
pub fn united(versions: &[&ModelVersion]) -> Option<ModelVersion> {
    let (first, others) = versions.split_first()?;
    let mut all = (*first).clone();
    for other in others.iter().filter(|other| other.blob == first.blob) {
        let fill = |to: &mut Option<String>, from: &Option<String>| {
            if to.is_none() {
                to.clone_from(from);
            }
        };
        fill(&mut all.template, &other.template);
        fill(&mut all.system, &other.system);
        fill(&mut all.parent, &other.parent);
        for (name, values) in &other.parameters {
            all.parameters.entry(name.clone()).or_insert_with(|| values.clone());
        }
        if all.messages.is_empty() {
            all.messages.clone_from(&other.messages);
        }
        for license in &other.licenses {
            if !all.licenses.contains(license) {
                all.licenses.push(license.clone());
            }
        }
    }
    all.digest = all.compute_digest();
    Some(all)
}
