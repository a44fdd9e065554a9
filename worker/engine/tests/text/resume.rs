//! A stream that goes on elsewhere: tokens and text continue exactly where they were cut.

use crate::fake::{drain, engine, limits, solo};
use crate::scheduling::request;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_resumed_stream_is_the_uninterrupted_one(
        request in request(),
        cut in 0.0f64..1.0,
        others in prop::collection::vec(request(), 0..3),
    ) {
        let whole = solo(&request, &[]);
        let cut = (whole.pieces.len() as f64 * cut) as usize;
        let sent = |pieces: &[(Vec<u32>, String)]| -> (Vec<u32>, String) {
            (
                pieces.iter().flat_map(|(tokens, _)| tokens.clone()).collect(),
                pieces.iter().map(|(_, text)| text.as_str()).collect(),
            )
        };
        let (before, after) = whole.pieces.split_at(cut);
        let ((resume, text_before), (tokens_after, text_after)) = (sent(before), sent(after));

        let mut engine = engine(20, limits(3, 16));
        for other in others {
            engine.submit(other, &[]).expect("taken");
        }
        let mut rest = request.clone();
        if let Some(mirostat) = &mut rest.options.sampling.mirostat {
            mirostat.mu = cut.checked_sub(1).and_then(|last| whole.mus[last]);
        }
        let id = engine.submit(rest, &resume).expect("taken");
        let resumed = drain(&mut engine).remove(&id).expect("emitted");
        let first = resumed.index.expect("emitted") as usize - resumed.tokens().len();
        prop_assert_eq!(first, resume.len());
        prop_assert_eq!(resumed.tokens(), tokens_after);
        prop_assert_eq!(text_before + &resumed.text(), whole.text());
        prop_assert_eq!(resumed.text(), text_after);
        prop_assert_eq!(resumed.mus.last(), whole.mus.last());
        prop_assert!(whole.logprobs.ends_with(&resumed.logprobs));
        prop_assert_eq!(resumed.finished, whole.finished);
    }

    #[test]
    fn a_stream_that_was_complete_ends_without_new_output(request in request()) {
        let whole = solo(&request, &[]);
        let resumed = solo(&request, &whole.tokens());
        prop_assert_eq!((resumed.tokens(), resumed.text()), (vec![], String::new()));
        prop_assert_eq!(resumed.finished, whole.finished);
    }
}
