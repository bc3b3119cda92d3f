"""From a folder of photographs to a model within a time: a race of recipes, run as a grid."""
