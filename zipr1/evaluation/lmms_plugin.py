"""The entry point `lmms_eval.models`: name and class of our model.

It is read at every `import lmms_eval.models`, so nothing heavy is imported here.
"""


def manifests():
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="zipr1", chat_class_path="zipr1.evaluation.lmms_model.ZipR1")]
