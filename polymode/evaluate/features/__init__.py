"""What samples and data are compared in: named spaces of features, made here or by networks of others."""

from polymode.evaluate.features.space import FeatureSpace, features_for

__all__ = ["FeatureSpace", "features_for"]
