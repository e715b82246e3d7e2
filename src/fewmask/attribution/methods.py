"""Names of the methods; settings read them, so nothing heavy is imported here."""

CAMS = ("cam", "grad_cam", "grad_cam_pp", "layer_cam", "score_cam")
"""Maps of a layer: :func:`fewmask.attribution.cam.compute_cam`."""
SALIENCY = (
    "plain", "deconv", "guided", "smoothgrad", "integrated_gradients", "guided_grad_cam",
)  # fmt: skip
"""Gradients of the image: :func:`fewmask.attribution.saliency.compute_saliency`."""
METHODS = (*CAMS, *SALIENCY)
