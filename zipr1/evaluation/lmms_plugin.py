"""What lmms-eval finds under the entry point `lmms_eval.models`: the name of the model, and where its class is.

Read at every `import lmms_eval.models`, so nothing heavy is imported here.
"""


def manifests():
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="zipr1", chat_class_path="zipr1.evaluation.lmms_model.ZipR1")]
