"""From shards to augmented views: sample order, drawn parameters, DALI graph."""
