"""What a network is worth on IJB-B or IJB-C, 1:1."""

import time
from dataclasses import replace

import numpy as np

from d2r_fast.engine.console import say
from d2r_fast.engine.errors import UserError
from d2r_fast.engine.readers.reader import Reader
from d2r_fast.recognition.evaluation.embed_crops import Embed, Embedded, embed_crops
from d2r_fast.recognition.evaluation.fusion import Fusion
from d2r_fast.recognition.evaluation.ijb import Ijb
from d2r_fast.recognition.evaluation.results import SuiteResult, choose_fusion
from d2r_fast.recognition.evaluation.roc import Roc, equal_error_rate, roc_curve, tar_at_far
from d2r_fast.recognition.evaluation.templates import aggregate, score_templates


def verify_ijb(
    ijb: Ijb, embed: Embed, *, suite: str, fusion: Fusion, batch_size: int = 128, max_unreadable: int = 0,
    reader: Reader | None = None,
) -> SuiteResult:  # fmt: skip
    """TARs and curve of a network on pairs of templates, by `fusion`, and by the three that share its flip beside it:
    they cost a minute where embedding costs hours.

    Images are read and embedded in batches; what grows with their number is their embeddings, 1 GB for IJB-C.
    Unreadable images are missing from their template; a template of none but these is left out with its pairs.

    Raises:
        UserError: more than `max_unreadable` images cannot be read, or the pairs left are of one kind.
        RunError: an embedding that is not finite.
    """
    started_s = time.monotonic()
    found = embed_crops(
        ijb.crops, embed, title=suite, flip=fusion.flip, batch_size=batch_size, max_unreadable=max_unreadable,
        reader=reader,
    )  # fmt: skip
    present = _present(ijb, found, suite)
    curves: dict[str, Roc] = {}
    for one in fusion.of_same_flip():
        try:
            curves[str(one)] = _curve(present, found, one)
        except UserError as error:
            if one == fusion:
                raise UserError(f"{suite}: {error}") from None
            say(f"{suite}: fusion {one} cannot be shown beside it: {error}")
    results = {
        name: SuiteResult(
            suite=suite,
            tar_at_far={far: point.result for far, point in tar_at_far(roc).items()},
            eer=equal_error_rate(roc),
            num_genuine=roc.num_genuine,
            num_impostor=roc.num_impostor,
            num_unreadable=found.num_unreadable,
            fusion=name,
            roc=roc,
            seconds=time.monotonic() - started_s,
        )
        for name, roc in curves.items()
    }
    return choose_fusion(results, str(fusion))


def _curve(present: Ijb, found: Embedded, fusion: Fusion) -> Roc:
    templates = aggregate(
        found.embeddings[found.readable] if found.num_unreadable else found.embeddings,
        present.template_ids, present.media_ids, norm=fusion.norm,
        detector_scores=present.detector_scores if fusion.detector else None,
    )  # fmt: skip
    return roc_curve(score_templates(templates, present.first, present.second), present.same)


def _present(ijb: Ijb, found: Embedded, suite: str) -> Ijb:
    """The protocol without the unreadable images, and without pairs of templates that have no other."""
    if not found.num_unreadable:
        return ijb
    template_ids = ijb.template_ids[found.readable]
    known = np.unique(template_ids)
    usable = np.isin(ijb.first, known) & np.isin(ijb.second, known)
    if not usable.all():
        say(f"{suite}: {int((~usable).sum()):,} pairs of templates without a readable image are left out")
    return replace(
        ijb, detector_scores=ijb.detector_scores[found.readable], template_ids=template_ids,
        media_ids=ijb.media_ids[found.readable], first=ijb.first[usable], second=ijb.second[usable],
        same=ijb.same[usable],
    )  # fmt: skip
