//! The work of `POST /api/create` that takes a while: a checkpoint converted, weights quantised, an adapter merged.
//!
//! Everything that can be known from headers is checked before: what comes then is reading, arithmetic and writing, on threads of
//! its own and one model at a time, so that the cluster goes on being served. The bytes go straight into the store, which keeps
//! them only when all have come; whoever asked and has gone ends it.

use super::making::{Progress, Records};
use crate::Gateway;
use crate::auth::Caller;
use crate::error::Failure;
use crate::quotas::Upload;
use ollamamax_import::{Adapter, Checkpoint, Files, ImportError, Model, OnDisk, Quantisation};
use ollamamax_proto::{Digest, limits};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many models are imported at once.
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::IMPORTS_COUNT)))
    }
}

impl Places {
    fn take(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| Failure::Unavailable {
            reason: "this node converts or quantizes another model now; try again later, or at another node"
                .to_owned(),
            retry_after_s: limits::IMPORT_RETRY_S,
        })
    }
}

/// What a model is made from.
pub(crate) enum Origin {
    /// A GGUF.
    Gguf(Digest),
    /// The files of a checkpoint.
    Checkpoint(BTreeMap<String, Digest>),
}

/// A model whose headers are read, and what shall become of it.
pub(crate) struct Work {
    model: Model,
    quantisation: Option<Quantisation>,
    converts: bool,
    _place: OwnedSemaphorePermit,
}

impl Gateway {
    /// Reads all headers; whatever is wrong with the files is the client's mistake.
    pub(crate) async fn read_headers(
        &self,
        origin: Origin,
        adapter: BTreeMap<String, Digest>,
        quantisation: Option<Quantisation>,
    ) -> Result<Work, Failure> {
        let place = self.imports.take()?;
        let converts = matches!(origin, Origin::Checkpoint(_));
        let files = match &origin {
            Origin::Gguf(digest) => BTreeMap::from([("the model".to_owned(), *digest)]),
            Origin::Checkpoint(files) => files.clone(),
        };
        let files = self.paths(files).await?;
        let adapter = self.paths(adapter).await?;
        let read = tokio::task::spawn_blocking(move || -> Result<Model, ImportError> {
            let mut files = opened(files)?;
            let mut model = match origin {
                Origin::Checkpoint(_) => Model::of_checkpoint(&Checkpoint::read(&files)?)?,
                Origin::Gguf(_) => {
                    let (name, bytes) = files.pop_first().expect("the one that was put there");
                    Model::of_gguf(&name, bytes)?
                }
            };
            if !adapter.is_empty() {
                Adapter::read(&opened(adapter)?)?.merge_into(&mut model)?;
            }
            Ok(model)
        });
        let model = read.await.map_err(|_| broke_off())?.map_err(failure)?;
        Ok(Work { model, quantisation, converts, _place: place })
    }

    async fn paths(
        &self,
        files: BTreeMap<String, Digest>,
    ) -> Result<BTreeMap<String, PathBuf>, Failure> {
        let mut paths = BTreeMap::new();
        for (name, digest) in files {
            paths.insert(name, self.blobs.open(digest).await?);
        }
        Ok(paths)
    }

    /// Does the work; the digest and the size of what came out.
    pub(crate) async fn import(
        self: &Arc<Self>,
        caller: &Caller,
        work: Work,
        records: &Records,
    ) -> Result<(Digest, u64), Failure> {
        let title = work.title();
        if work.converts && work.quantisation.is_some() {
            // Whoever has gone is noticed below.
            let _ = records.send(Ok(Progress::of("converting model"))).await;
        }
        let mut meter = Meter {
            title,
            records: records.clone(),
            upload: self.let_upload(caller, None)?,
            told: 0,
            written: 0,
        };
        let failed = Arc::new(OnceLock::new());
        let fail = Arc::clone(&failed);
        let threads = std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        let write = move |out: &mut dyn io::Write| {
            let mut refused = None;
            let mut progress = |done, total| meter.at(done, total, &mut refused);
            let made = work.model.write(work.quantisation, threads, out, &mut progress);
            match made {
                Ok(_) => Ok(()),
                // The store tells that better: it knows its disk.
                Err(ImportError::Write(error)) => Err(error),
                Err(error) => {
                    let _ = fail.set(refused.unwrap_or_else(|| failure(error)));
                    Err(io::Error::other("the model was not made"))
                }
            }
        };
        let made = self.blobs.make(Box::new(write)).await;
        match failed.get() {
            Some(failure) => Err(Failure::clone(failure)),
            None => Ok(made?),
        }
    }
}

impl Work {
    fn title(&self) -> String {
        match self.quantisation {
            Some(quantisation) => {
                format!("quantizing {} model to {quantisation}", self.model.kept())
            }
            None if self.converts => "converting model".to_owned(),
            None => "merging adapter".to_owned(),
        }
    }
}

/// Tells how far it is, a hundred times at most, and pays for what is written.
struct Meter {
    title: String,
    records: Records,
    upload: Upload,
    told: u64,
    written: u64,
}

impl Meter {
    fn at(&mut self, done: u64, total: u64, refused: &mut Option<Failure>) -> ControlFlow<()> {
        let paid = self.upload.more(done - self.written);
        self.written = done;
        if let Err(failure) = paid {
            *refused = Some(failure);
            return ControlFlow::Break(());
        }
        if self.records.is_closed() {
            return ControlFlow::Break(());
        }
        let hundredth = done * 100 / total.max(1);
        if hundredth > self.told || done == total {
            self.told = hundredth;
            // A client that reads slowly misses some.
            let _ = self.records.try_send(Ok(Progress::bytes(&self.title, done, total)));
        }
        ControlFlow::Continue(())
    }
}

fn opened(paths: BTreeMap<String, PathBuf>) -> Result<Files, ImportError> {
    let open = |(name, path): (String, PathBuf)| {
        let file = File::open(path).and_then(OnDisk::new);
        let read = |source| ImportError::Read { file: ollamamax_import::Quote::of(&name), source };
        let file: Arc<dyn ollamamax_import::ReadAt> = Arc::new(file.map_err(read)?);
        Ok((name, file))
    };
    paths.into_iter().map(open).collect()
}

fn failure(error: ImportError) -> Failure {
    match error.is_of_the_files() {
        true => Failure::invalid(error.to_string()),
        false => Failure::Internal(error.to_string()),
    }
}

fn broke_off() -> Failure {
    Failure::Internal("reading the files broke off".to_owned())
}
