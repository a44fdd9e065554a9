//! What a model consists of, as a registry tells it: a manifest of Docker's version 2 with Ollama's media types.
//!
//! A manifest is a stranger's claim: it has few layers, each of a kind that is known and of a size that its kind may have, and
//! exactly one of them is the model.

use crate::error::SourceError;
use ollamamax_proto::{Digest, limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The media type of a manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// That of its configuration.
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
/// What those of its layers begin with.
const LAYER_TYPES: &str = "application/vnd.ollama.image.";

/// What a layer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The GGUF.
    Model,
    /// How conversations become prompts.
    Template,
    /// What comes before every conversation.
    System,
    /// Options that count where a request is silent, as a JSON object.
    Params,
    /// Messages before every conversation, as a JSON array.
    Messages,
    /// A licence.
    License,
    /// What the model is, as a JSON object.
    Config,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Model,
        Self::Template,
        Self::System,
        Self::Params,
        Self::Messages,
        Self::License,
        Self::Config,
    ];

    /// Its media type.
    pub fn media_type(self) -> String {
        let end = match self {
            Self::Model => "model",
            Self::Template => "template",
            Self::System => "system",
            Self::Params => "params",
            Self::Messages => "messages",
            Self::License => "license",
            Self::Config => return CONFIG_TYPE.to_owned(),
        };
        format!("{LAYER_TYPES}{end}")
    }

    /// Most bytes it may have.
    pub fn limit(self) -> u64 {
        match self {
            Self::Model => limits::BLOB_BYTES,
            _ => limits::MODEL_TEXT_BYTES as u64,
        }
    }
}

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it is for.
    pub kind: Kind,
    /// Its bytes.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
}

/// What a model consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// In the order told, the configuration last.
    pub layers: Vec<Layer>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: WireLayer,
    layers: Vec<WireLayer>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLayer {
    media_type: String,
    digest: String,
    size: u64,
}

impl Manifest {
    /// Reads what `host` sent.
    ///
    /// # Errors
    /// When it is no manifest of a model that can be used.
    pub fn parse(host: &str, bytes: &[u8]) -> Result<Self, SourceError> {
        let lied = |what: String| SourceError::Lied { host: host.to_owned(), what };
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| lied(format!("sends a manifest that cannot be read: {error}")))?;
        if value.get("manifests").is_some() {
            let text = format!("`{host}` has a list of images there, and no model");
            return Err(SourceError::Unsupported(text));
        }
        let wire: Wire = serde_json::from_value(value)
            .map_err(|error| lied(format!("sends a manifest that cannot be read: {error}")))?;
        if wire.schema_version != 2 {
            return Err(lied(format!("sends a manifest of version {}", wire.schema_version)));
        }
        let most = limits::MANIFEST_LAYERS_COUNT;
        if wire.layers.len() > most {
            let count = wire.layers.len();
            return Err(lied(format!(
                "sends a manifest of {count} layers, at most {most} are taken"
            )));
        }
        let config = Some((Kind::Config, &wire.config));
        let layers = wire.layers.iter().map(|layer| Ok((kind(host, layer)?, layer)));
        let layers = layers.chain(config.map(Ok)).map(|layer: Result<_, SourceError>| {
            let (kind, layer) = layer?;
            let digest = layer.digest.parse();
            let digest = digest.map_err(|error| lied(format!("names a layer badly: {error}")))?;
            let (bytes, limit) = (layer.size, kind.limit());
            if bytes > limit {
                let what = format!("the {} of `{host}`", kind.media_type());
                return Err(SourceError::TooLarge { what, bytes, limit });
            }
            Ok(Layer { kind, digest, bytes })
        });
        let layers: Vec<Layer> = layers.collect::<Result<_, _>>()?;
        for kind in Kind::ALL {
            let count = layers.iter().filter(|layer| layer.kind == kind).count();
            let fits = match kind {
                Kind::Model => count == 1,
                Kind::License => true,
                _ => count <= 1,
            };
            if !fits {
                let kind = kind.media_type();
                return Err(lied(format!("sends a manifest with {count} layers of {kind}")));
            }
        }
        let differs = |one: &Layer| {
            layers.iter().any(|other| other.digest == one.digest && other.bytes != one.bytes)
        };
        if layers.iter().any(differs) {
            return Err(lied("names one layer with two sizes".to_owned()));
        }
        Ok(Self { layers })
    }

    /// As it goes to a registry. The configuration is the last layer.
    pub fn to_json(&self) -> Vec<u8> {
        let wire = |layer: &Layer| WireLayer {
            media_type: layer.kind.media_type(),
            digest: layer.digest.to_string(),
            size: layer.bytes,
        };
        let is_config = |layer: &&Layer| layer.kind == Kind::Config;
        let config = self.layers.iter().find(is_config).map(wire);
        let config = config.unwrap_or(WireLayer {
            media_type: CONFIG_TYPE.to_owned(),
            digest: Digest::of(b"").to_string(),
            size: 0,
        });
        let layers = self.layers.iter().filter(|layer| !is_config(layer)).map(wire).collect();
        let media_type = Some(MANIFEST_TYPE.to_owned());
        let wire = Wire { schema_version: 2, media_type, config, layers };
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// The layers of a kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(move |layer| layer.kind == kind)
    }
}

fn kind(host: &str, layer: &WireLayer) -> Result<Kind, SourceError> {
    let known = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Config);
    let found = known.into_iter().find(|kind| kind.media_type() == layer.media_type);
    found.ok_or_else(|| {
        let of: String = layer.media_type.chars().take(100).collect();
        let of = of.strip_prefix(LAYER_TYPES).unwrap_or(&of);
        SourceError::Unsupported(format!(
            "the model at `{host}` has a layer `{of}`, which this version cannot use; expected a GGUF with texts"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn layer(kind: &str, digest: &str, size: u64) -> Value {
        json!({"mediaType": format!("application/vnd.ollama.image.{kind}"), "digest": digest, "size": size})
    }

    fn manifest(layers: Vec<Value>) -> Value {
        let config = json!({"mediaType": CONFIG_TYPE, "digest": Digest::of(b"c"), "size": 1});
        json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers})
    }

    fn parse(value: &Value) -> Result<Manifest, SourceError> {
        Manifest::parse("h", value.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_is_read_as_it_is_written() {
        let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
        let layers = vec![
            layer("model", &digest("m"), 5),
            layer("license", &digest("l"), 3),
            layer("license", &digest("k"), 3),
            layer("params", &digest("p"), 2),
        ];
        let value = manifest(layers);
        let read = parse(&value).expect("a manifest");
        assert_eq!(read.layers.len(), 5);
        assert_eq!(read.layers.last().map(|layer| layer.kind), Some(Kind::Config));
        assert_eq!(read.of(Kind::License).count(), 2);
        let written: Value = serde_json::from_slice(&read.to_json()).expect("JSON");
        assert_eq!(written, value);
    }

    #[test]
    fn a_manifest_that_lies_is_refused_with_the_reason() {
        let good = Digest::of(b"m").to_string();
        let model = layer("model", &good, 5);
        let odd = |digest: &str| manifest(vec![layer("model", digest, 5)]);
        let many = (0..70).map(|_| layer("license", &good, 5)).chain([model.clone()]).collect();
        for (value, words) in [
            (json!([]), "cannot be read"),
            (json!({"schemaVersion": 2}), "cannot be read"),
            (json!({"schemaVersion": 2, "manifests": []}), "a list of images"),
            (json!({"schemaVersion": 1, "config": model, "layers": []}), "version 1"),
            (manifest(vec![]), "0 layers"),
            (manifest(vec![model.clone(), model.clone()]), "2 layers"),
            (manifest(many), "71 layers"),
            (manifest(vec![model.clone(), layer("adapter", &good, 5)]), "`adapter`"),
            (
                manifest(vec![
                    model.clone(),
                    json!({"mediaType": "text/plain", "digest": good, "size": 5}),
                ]),
                "`text/plain`",
            ),
            (manifest(vec![model.clone(), layer("system", &good, 6)]), "two sizes"),
            (
                manifest(vec![
                    model.clone(),
                    layer("system", &Digest::of(b"s").to_string(), 1 << 40),
                ]),
                "at most",
            ),
            (manifest(vec![layer("model", &good, u64::MAX)]), "at most"),
            (
                manifest(vec![
                    json!({"mediaType": "application/vnd.ollama.image.model", "digest": good, "size": -1}),
                ]),
                "cannot be read",
            ),
            (odd("sha256:../../etc/passwd"), "invalid digest"),
            (odd("../../../canary"), "invalid digest"),
            (odd(&good.to_uppercase()), "invalid digest"),
            (odd(&format!("{good}/../x")), "invalid digest"),
            (odd("md5:d41d8cd98f00b204e9800998ecf8427e"), "invalid digest"),
        ] {
            let error = parse(&value).expect_err(words).to_string();
            assert!(error.contains(words), "{error} lacks {words}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn any_bytes_are_a_manifest_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::parse("h", &bytes);
        }

        #[test]
        fn any_mutant_of_a_manifest_is_one_or_refused(at in 0usize..2_000, byte in any::<u8>(), cut in 0usize..400) {
            let layers = ["model", "license", "template", "params"];
            let value = manifest(layers.iter().map(|kind| layer(kind, &Digest::of(kind.as_bytes()).to_string(), 9)).collect());
            let mut bytes = value.to_string().into_bytes();
            let len = bytes.len();
            bytes[at % len] = byte;
            let _ = Manifest::parse("h", &bytes);
            bytes.truncate(cut);
            let _ = Manifest::parse("h", &bytes);
        }
    }
}
