"""What people write (recipes, targets) and what a bundle says (the manifest), as strict schemas."""
